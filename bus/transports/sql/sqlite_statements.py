"""The statements for SQLite. Times are texts, those of ``rows.py``."""

# ruff: noqa: D102 - each method builds the statement of its name, described in the class of the statements

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    ClauseElement,
    Integer,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    not_,
    select,
    update,
)

from bus.transports.sql.rows import HELD, HELD_PARKED, PARKED
from bus.transports.sql.statements import StatementBuilder, Statements, text_of


@dataclass(frozen=True, slots=True)
class SqliteStatements(Statements):
    """What SQLite needs beside the shared statements.

    Attributes:
        next_lane: the smallest lane of a queue above ``lane``, or NULL.
        ready: the messages of one lane that may be claimed, in order: one range of the index.
        one: a message by its id, unless somebody holds it.
        claim: mark one message as held.
        owned: those of the JSON list ``ids`` that a token holds.
        remove: delete a held message.
        tokens: who holds messages in one lane.
        free: let go what a dead worker's token holds in one lane. It comes back before the others of its age.
    """

    next_lane: str
    ready: str
    one: str
    claim: str
    owned: str
    remove: str
    tokens: str
    free: str


class SqliteBuilder(StatementBuilder):
    """Writes the statements on one table in SQLite."""

    def __init__(self, table: Table, *, complete: bool) -> None:
        super().__init__(table, complete=complete)
        c = self.c
        self.now = bindparam("now")
        self.due = bindparam("due")
        self.parked = text_of(PARKED)
        self.held_by_us = c.claim_token.is_not(None)
        # A PHP worker marks what it handles with the time at which it took it.
        self.held_by_php = and_(c.delivered_at.is_not(None), c.delivered_at >= bindparam("php_gave_up"))
        self._is_held = c.available_at.in_((text_of(HELD), text_of(HELD_PARKED)))

    def next_lane(self) -> ClauseElement:
        c = self.c
        return select(func.min(c.lane)).where(c.queue_name == bindparam("queue"), c.lane > bindparam("lane"))

    def ready(self) -> ClauseElement:
        c = self.c
        return (
            select(c.id, c.body, c.headers, c.deliveries, c.available_at)
            .where(self.in_lane, c.available_at <= self.now, not_(self.held_by_php))
            .order_by(c.available_at, c.id)
            .limit(bindparam("limit"))
            .offset(literal_column("0"))  # else SQLite's dialect adds a parameter of its own
        )

    def next_due(self) -> ClauseElement:
        due = self.c.available_at
        return select(func.min(due)).where(self.in_lane, due > self.now, due < text_of(HELD))

    def one(self) -> ClauseElement:
        c = self.c
        return select(c.id, c.body, c.headers, c.deliveries, c.available_at).where(
            c.id == bindparam("row"),
            c.queue_name == bindparam("queue"),
            not_(self.held_by_us),
            not_(self.held_by_php),
        )

    def claim(self) -> ClauseElement:
        values = {
            "claim_token": bindparam("token"),
            "deliveries": self.c.deliveries + literal_column("1"),
            "delivered_at": bindparam("now"),
            "available_at": bindparam("mark"),
        }
        return update(self.table).where(self.c.id == bindparam("row")).values(values)

    def owned(self) -> ClauseElement:
        ids = select(literal_column("value", Integer)).select_from(func.json_each(bindparam("ids")))
        return select(self.c.id).where(self.c.id.in_(ids), self.c.claim_token == bindparam("token"))

    def remove(self) -> ClauseElement:
        return delete(self.table).where(self.held_by_token)

    def tokens(self) -> ClauseElement:
        return select(self.c.claim_token).where(self.in_lane, self._is_held).distinct()

    def free(self) -> ClauseElement:
        c = self.c
        place = case(
            (c.available_at == text_of(HELD_PARKED), text_of(PARKED)),
            (c.created_at < bindparam("now"), c.created_at),
            else_=bindparam("now"),
        )
        owner = c.claim_token == bindparam("token")
        return (
            update(self.table).where(self.in_lane, self._is_held, owner).values({"available_at": place} | self.let_go)
        )
