"""The statements for MariaDB and MySQL: a claim is found and made by two, in one transaction."""

# ruff: noqa: D102 - each method builds the statement of its name, described in the class of the statements

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Insert,
    Select,
    Table,
    bindparam,
    func,
    literal_column,
    not_,
    select,
    update,
)

from bus.transports.sql.schema import claim_index
from bus.transports.sql.server.mysql import mysql_dialect
from bus.transports.sql.server.statements import ServerBuilder, ServerStatements


class MysqlTimes:
    """How MariaDB and MySQL tell the time."""

    def __init__(self, *, whole_seconds: bool) -> None:
        self._whole_seconds = whole_seconds
        self.now: ColumnElement[Any] = literal_column("UTC_TIMESTAMP()" if whole_seconds else "UTC_TIMESTAMP(3)")

    def plus(self, time: ColumnElement[Any], milliseconds: ColumnElement[int]) -> ColumnElement[Any]:
        if self._whole_seconds:
            # A column of whole seconds would round up, into the future.
            seconds = func.floor(milliseconds / literal_column("1000"))
            return func.timestampadd(literal_column("SECOND"), seconds, time)
        return func.timestampadd(literal_column("MICROSECOND"), milliseconds * literal_column("1000"), time)

    def constant(self, text: str) -> ColumnElement[Any]:
        return literal_column(f"TIMESTAMP'{text}'")

    def milliseconds_until(self, time: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.timestampdiff(literal_column("MICROSECOND"), self.now, time) / literal_column("1000")


@dataclass(frozen=True, slots=True)
class MysqlStatements(ServerStatements):
    """What MariaDB and MySQL need beside the statements of servers. ``rows`` are ids.

    Attributes:
        new: the values of one new message, for an INSERT of many.
        ready: lock the messages of one lane that may be claimed, in order: one range of the index.
        one: lock a message by its id, unless somebody holds it.
        hold: mark locked messages as held.
        owned: lock those that a token holds.
        remove: delete held messages.
        release: let a held message go to its old place, counted as delivered.
        renew: keep locked messages for another lease.
    """

    new: str
    ready: str
    one: str
    hold: str
    owned: str
    remove: str
    release: str
    renew: str


class MysqlBuilder(ServerBuilder):
    """Writes the statements on one table in MariaDB or MySQL."""

    def __init__(self, table: Table, *, complete: bool, whole_seconds: bool, redeliver_timeout: int) -> None:
        times = MysqlTimes(whole_seconds=whole_seconds)
        super().__init__(table, times, complete=complete, redeliver_timeout=redeliver_timeout)
        self.dialect = mysql_dialect()
        self._index = claim_index(table).name

    def insert(self) -> str:
        return self._insert_parts()[0]

    def new(self) -> str:
        return self._insert_parts()[1]

    def _insert_parts(self) -> tuple[str, str]:
        statement = super().insert()
        assert isinstance(statement, Insert)
        head, values, row = str(statement.compile(dialect=self.dialect)).partition(" VALUES ")
        return head + values, row

    def ready(self) -> ClauseElement:
        c = self.c
        found = (
            select(c.id, c.body, c.headers, c.deliveries, c.available_at)
            .where(self.in_lane, c.available_at <= self.now, not_(self.held_by_php))
            .order_by(c.available_at, c.id)
            .limit(bindparam("limit"))
        )
        return self._locked(found.with_hint(self.table, f"FORCE INDEX ({self._index})", "*"))

    def one(self) -> ClauseElement:
        c = self.c
        found = select(c.id, c.body, c.headers, c.deliveries, c.available_at).where(
            c.id == bindparam("row"),
            c.queue_name == bindparam("queue"),
            not_(self.held_by_us),
            not_(self.held_by_php),
        )
        return self._locked(found)

    def hold(self) -> ClauseElement:
        values: dict[str, ColumnElement[Any]] = {
            "claim_token": bindparam("token"),
            "deliveries": func.coalesce(self.c.deliveries, literal_column("0")) + literal_column("1"),
            "delivered_at": self.now,
            "available_at": self.held_until,
        }
        return update(self.table).where(self._is_one_of(self.c.id)).values(values)

    def owned(self) -> ClauseElement:
        c = self.c
        return (
            select(c.id)
            .where(self._is_one_of(c.id), c.claim_token == bindparam("token"))
            .order_by(c.id)
            .with_for_update()
        )

    def remove(self) -> str:
        name = self.dialect.identifier_preparer.format_table(self.table)
        return f"DELETE FROM {name} WHERE id IN %(rows)s AND claim_token = %(token)s"  # noqa: S608 - a plain name

    def release(self) -> ClauseElement:
        return update(self.table).where(self.held_by_token).values({"available_at": bindparam("place")} | self.let_go)

    def renew(self) -> ClauseElement:
        values = {"delivered_at": self.now, "available_at": self.held_until}
        mine = self.c.claim_token == bindparam("token")
        return update(self.table).where(self._is_one_of(self.c.id), mine).values(values)

    def _is_one_of(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        # The library writes a list as one in brackets.
        return column.op("IN", is_comparison=True)(bindparam("rows"))

    def _locked(self, found: Select[Any]) -> ClauseElement:
        return found.with_for_update(skip_locked=True)
