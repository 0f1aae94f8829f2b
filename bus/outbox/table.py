"""The table ``messenger_outbox``: messages on their way, each until its transport has confirmed it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Column,
    ColumnElement,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from bus import headers as header_names
from bus.amqp_stamps import AmqpStamp, as_text, from_text
from bus.transports.base import Outgoing
from bus.transports.sql.schema import table_exists

TABLE_NAME: Final = "messenger_outbox"


class Waiting(NamedTuple):
    """A message that waits in the outbox. ``due`` is when it may be sent, in milliseconds since the epoch."""

    id: int
    transport: str
    outgoing: Outgoing
    created_at: int
    due: int
    tries: int


class OutboxTable:
    """The table in a database of one dialect. Holds no state; a DBAPI cursor brings the connection."""

    def __init__(self, dialect: Dialect) -> None:
        self._returns_ids = dialect.name == "postgresql"
        self._sql = _statements(dialect)

    def insert_rows(self, cursor: Any, transport: str, batch: Iterable[Outgoing], now: int, due: int) -> list[Waiting]:
        """Store messages that may be sent from ``due`` on; a keyed one at once, for only one process sends those."""
        waiting = []
        for outgoing in batch:
            first = now if outgoing.partition_key is not None else due
            cursor.execute(self._sql.insert, _parameters(transport, outgoing, now, first))
            number = cursor.fetchone()[0] if self._returns_ids else cursor.lastrowid
            waiting.append(Waiting(number, transport, outgoing, now, first, 0))
        return waiting

    def is_there(self, cursor: Any) -> bool:
        """Tell whether the database has the table."""
        cursor.execute(self._sql.exists)
        return cursor.fetchone() is not None

    @property
    def ddl(self) -> Sequence[str]:
        """The statements that create the table."""
        return self._sql.set_up

    def set_up(self, cursor: Any) -> None:
        """Create the table. Harmless when it is there."""
        if self.is_there(cursor):
            return
        for statement in self.ddl:
            cursor.execute(statement)

    def is_any_due(self, cursor: Any, transports: Iterable[str], now: int) -> bool:
        """Tell whether a message without a key waits longer than its sender should need."""
        cursor.execute(self._sql.any_due, {"transports": json.dumps(list(transports)), "now": now})
        return cursor.fetchone() is not None

    def claim_due(self, cursor: Any, transport: str, limit: int, now: int, until: int) -> list[Waiting]:
        """Take messages of a transport without a key, the oldest first, so that nobody else does before ``until``."""
        cursor.execute(self._sql.due, {"transport": transport, "now": now, "limit": limit})
        rows = cursor.fetchall()
        if rows:
            cursor.executemany(self._sql.put_off, [{"row": row[0], "later": until, "counted": row[-1]} for row in rows])
        return [_waiting(row) for row in rows]

    def first_of_each_key(self, cursor: Any, transports: Iterable[str], limit: int, now: int) -> list[Waiting]:
        """Return the first message of each key and transport, unless it has to wait: the others wait for it."""
        parameters = {"transports": json.dumps(list(transports)), "limit": limit, "now": now}
        cursor.execute(self._sql.first_of_each_key, parameters)
        return [_waiting(row) for row in cursor.fetchall()]

    def put_off(self, cursor: Any, waiting: Waiting, due: int) -> None:
        """Let a message that could not be sent wait until ``due``."""
        cursor.execute(self._sql.put_off, {"row": waiting.id, "later": due, "counted": waiting.tries + 1})

    def remove(self, cursor: Any, ids: Iterable[int]) -> None:
        """Remove messages that their transport has."""
        rows = [{"row": row} for row in sorted(ids)]
        if rows:
            cursor.executemany(self._sql.remove, rows)

    def transports_in(self, cursor: Any) -> set[str]:
        """Return the transports that messages wait for."""
        cursor.execute(self._sql.transports)
        return {_text(name) for (name,) in cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class _Statements:
    """SQL texts with named parameters; times are milliseconds since the epoch."""

    set_up: tuple[str, ...]
    exists: str
    insert: str
    any_due: str
    due: str
    first_of_each_key: str
    put_off: str
    remove: str
    transports: str


def _table() -> Table:
    return Table(
        TABLE_NAME,
        MetaData(),
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("transport", String(190), nullable=False),
        Column("message_id", String(255), nullable=False),
        Column("body", LargeBinary().with_variant(mysql.LONGBLOB(), "mysql"), nullable=False),
        Column("headers", Text().with_variant(mysql.LONGTEXT(), "mysql"), nullable=False),
        Column("delay_ms", BigInteger, nullable=False),
        Column("origin", String(255)),
        Column("attempt", Integer, nullable=False),
        Column("priority", Integer, nullable=False),
        Column("partition_key", String(255).with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), "mysql")),
        Column("created_at", BigInteger, nullable=False),
        Column("due", BigInteger, nullable=False),
        Column("tries", Integer, nullable=False, server_default="0"),
        sqlite_autoincrement=True,
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )


_NEW: Final = ("message_id", "body", "headers", "delay_ms", "origin", "attempt", "priority", "partition_key")


def _statements(dialect: Dialect) -> _Statements:
    table = _table()
    c = table.c
    indexes = (
        Index(f"{TABLE_NAME}_due", c.transport, c.due, c.id),
        Index(f"{TABLE_NAME}_key", c.transport, c.partition_key, c.id),
    )
    columns = (c.id, c.transport, *(c[name] for name in _NEW), c.created_at, c.due, c.tries)
    is_ours = _is_in(c.transport, dialect)
    first = select(func.min(c.id)).where(is_ours, c.partition_key.is_not(None)).group_by(c.transport, c.partition_key)
    new: dict[str, ColumnElement[object]] = {
        name: bindparam(f"new_{name}") for name in ("transport", *_NEW, "created_at", "due")
    }
    returns_ids = dialect.name == "postgresql"
    offset: ColumnElement[int] = literal_column("0")  # else SQLite's dialect adds a parameter of its own
    statements: dict[str, ClauseElement] = {
        "insert": insert(table).values(new).returning(c.id) if returns_ids else insert(table).values(new),
        "any_due": select(c.id)
        .where(is_ours, c.due <= bindparam("now"), c.partition_key.is_(None))
        .limit(literal_column("1"))
        .offset(offset),
        "due": select(*columns)
        .where(c.transport == bindparam("transport"), c.due <= bindparam("now"), c.partition_key.is_(None))
        .order_by(c.due, c.id)
        .limit(bindparam("limit"))
        .offset(offset)
        # Another process may be at it; where there is one writer, there is none.
        .with_for_update(skip_locked=True),
        "first_of_each_key": select(*columns)
        .where(c.id.in_(first), c.due <= bindparam("now"))
        .order_by(c.id)
        .limit(bindparam("limit"))
        .offset(offset),
        "put_off": update(table)
        .where(c.id == bindparam("row"))
        .values(due=bindparam("later"), tries=bindparam("counted")),
        "remove": delete(table).where(c.id == bindparam("row")),
        "transports": select(c.transport).distinct(),
    }
    texts = {name: str(each.compile(dialect=dialect)) for name, each in statements.items()}
    create: list[ClauseElement] = [CreateTable(table, if_not_exists=True)]
    create += [CreateIndex(each, if_not_exists=dialect.name != "mysql") for each in indexes]
    return _Statements(
        set_up=tuple(str(each.compile(dialect=dialect)).strip() for each in create),
        exists=table_exists(TABLE_NAME, dialect),
        **texts,
    )


def _is_in(transport: ColumnElement[str], dialect: Dialect) -> ColumnElement[bool]:
    """Return the condition that a transport is in the JSON list ``transports``."""
    if dialect.name == "mysql":
        return func.json_contains(bindparam("transports"), func.json_quote(transport)) == literal_column("1")
    if dialect.name == "sqlite":
        names = select(literal_column("value", String)).select_from(func.json_each(bindparam("transports")))
    else:
        names = select(func.jsonb_array_elements_text(cast(bindparam("transports", type_=Text), postgresql.JSONB)))
    return transport.in_(names)


def _parameters(transport: str, outgoing: Outgoing, now: int, due: int) -> Mapping[str, object]:
    return {
        "new_transport": transport,
        "new_message_id": outgoing.message_id,
        "new_body": outgoing.body,
        "new_headers": json.dumps(_with_native(outgoing)),
        "new_delay_ms": outgoing.delay_ms,
        "new_origin": outgoing.origin,
        "new_attempt": outgoing.attempt,
        "new_priority": outgoing.priority,
        "new_partition_key": outgoing.partition_key,
        "new_created_at": now,
        "new_due": due,
    }


def _with_native(outgoing: Outgoing) -> Mapping[str, str]:
    """Return the headers, and among them what says how RabbitMQ is to get the message."""
    stamp = outgoing.native
    return {**outgoing.headers, **({header_names.AMQP: as_text(stamp)} if isinstance(stamp, AmqpStamp) else {})}


def _waiting(row: Sequence[bytes | str | int | None]) -> Waiting:
    number, transport, message_id, body, headers, delay, origin, attempt, priority, key, created, due, tries = row
    fields = json.loads(_text(headers))
    native = fields.pop(header_names.AMQP, None)
    outgoing = Outgoing(
        _text(message_id),
        bytes(body) if isinstance(body, bytes) else _text(body).encode(),
        fields,
        _number(delay),
        None if origin is None else _text(origin),
        _number(attempt),
        _number(priority),
        None if key is None else _text(key),
        from_text(native) if native is not None else None,
    )
    return Waiting(_number(number), _text(transport), outgoing, _number(created), _number(due), _number(tries))


def _text(value: object) -> str:
    """Return a column's text; the relay's connection reads bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
