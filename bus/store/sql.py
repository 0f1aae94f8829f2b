"""A store in a table of a SQL database."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Column,
    ColumnElement,
    Dialect,
    Index,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    delete,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from bus.claim_locks import ClaimLocks, folder_of
from bus.clock import Clock, SystemClock
from bus.errors import AccessDeniedError, TransportError
from bus.forking import forget_in_children
from bus.transports.sql.connection import SqliteDatabase
from bus.transports.sql.database import Database
from bus.transports.sql.databases import clock_of, database_at
from bus.transports.sql.schema import table_exists
from bus.unit import Transaction, transaction_on

TABLE_NAME: Final = "messenger_store"

# How long a step waits for other writers, in seconds: longer than a handler that writes should take.
_PATIENCE: Final = 30.0
_SERVERS_PATIENCE: Final = 5.0  # nobody waits for a writer there
_BETWEEN_CLEANINGS: Final = 60.0  # seconds
_CLEANED_AT_ONCE: Final = 1000

Parameters = Mapping[str, object]


class SqlStore:
    """Keeps values in the table ``messenger_store`` of a database. Thread-safe; connects when it is first used.

    Within a handler's transaction on the same database every step is part of that transaction. On SQLite, whose one
    writer it may have to wait for (30 s), leases in it are no times: the token of a process is alive as long as its
    file lock is held, so that nothing has to be written to keep a claim. On servers they end by the server's clock.

    Args:
        database: a SQLite file, or a DSN such as ``postgresql://user@host/shop``.
        auto_setup: create the table when it is first used.
        clock: tells the time where no server does.

    Attributes:
        living: who lives, where leases are no times.
    """

    def __init__(self, database: str | Path | Database, *, auto_setup: bool = True, clock: Clock | None = None) -> None:
        self._auto_setup = auto_setup
        self._database = database_at(database) if isinstance(database, str | Path) else database
        self._clock = clock_of(self._database, clock or SystemClock())
        self._sql = _statements(self._database.dialect)
        self._patience = _PATIENCE if self._database.has_one_writer else _SERVERS_PATIENCE
        self.living = (
            LockedProcesses(folder_of(self._database.path)) if isinstance(self._database, SqliteDatabase) else None
        )
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self._has_table = False
        self._next_cleaning = float("-inf")

    # --- the four steps ---

    def put_if_absent(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store a value unless the key has one. A power failure may undo it, along with who put it there."""
        parameters = {"put_key": key, "new": value, "ends": self._end(ttl)}
        first = self._sql.forget if self._database.dialect.name == "mysql" else None
        return self._change(self._sql.put_if_absent, parameters, lasts=False, first=first)

    def swap(self, key: str, expected: str, value: str, ttl: float | None = None) -> bool:
        """Replace one value by another."""
        return self._change(self._sql.swap, {"at": key, "expected": expected, "new": value, "ends": self._end(ttl)})

    def delete_if(self, key: str, expected: str) -> bool:
        """Delete a value."""
        return self._change(self._sql.delete_if, {"at": key, "expected": expected})

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None."""

        def look(cursor: Any) -> str | None:
            if not self._table_is_there(cursor):
                return None
            cursor.execute(self._sql.get, {"at": key, "now": self._now()})
            found = cursor.fetchone()
            return None if found is None else _text(found[0])

        joined = transaction_on(self._database.name)
        if joined is not None:
            return look(joined.cursor())
        # Looking creates no file where there is none.
        return self._database.read(look) if self._database.exists() else None

    def joins(self, transaction: Transaction) -> bool:
        """Tell whether a transaction is on this database."""
        return transaction.database == self._database.name

    def close(self) -> None:
        """Let go of the connections and of every claim. Idempotent; from any thread."""
        if self.living is not None:
            self.living.release()
        self._database.close()

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        self._database.forget()
        if self.living is not None:
            self.living.forget()
        self._begin()

    # --- the database ---

    def set_up(self) -> None:
        """Create the table. Harmless when called again."""
        self._database.alter(self._create, within=self._patience)

    def check(self) -> Sequence[str]:
        """Return what is missing, one sentence each. Creates nothing."""
        if self._database.exists() and self._database.read(self._is_there):
            return ()
        return (f'there is no table "{TABLE_NAME}" in {self._database}',)

    def ddl(self) -> Sequence[str]:
        """Return the statements that ``set_up`` would execute now."""
        return () if self._database.exists() and self._database.read(self._is_there) else self._sql.set_up

    def _change(self, statement: str, parameters: Parameters, *, lasts: bool = True, first: str | None = None) -> bool:
        def change(cursor: Any) -> bool:
            if self._database.has_one_writer:
                self._prepare(cursor)
            if first is not None:
                cursor.execute(first, {**parameters, "now": self._now()})
            cursor.execute(statement, {**parameters, "now": self._now()})
            changed: bool = cursor.rowcount == 1
            return changed

        if not self._database.has_one_writer:
            self._prepare_apart()
        joined = transaction_on(self._database.name)
        if joined is not None:
            return change(joined.cursor())
        try:
            changed = self._database.write(change, within=self._patience, lasts=lasts, single=first is None)
        except TransportError:
            self._has_table = False  # it may have been dropped
            raise
        self._has_table = True
        return changed

    def _prepare(self, cursor: Any) -> None:
        """Create the table where it is missing, and remove values whose time is over, now and then."""
        if not self._table_is_there(cursor):
            self._must_set_up()
            self._create(cursor)
        if self._is_to_be_cleaned():
            self._clean(cursor)

    def _prepare_apart(self) -> None:
        """Do the same on connections of its own: a server's other writers do not wait for them."""
        if not self._has_table and not self._database.read(self._is_there):
            self._must_set_up()
            self.set_up()
        self._has_table = True
        if self._is_to_be_cleaned():
            self._database.write(self._clean, within=self._patience, lasts=False, single=True)

    def _must_set_up(self) -> None:
        if not self._auto_setup:
            raise AccessDeniedError(
                f'{self._database} has no table "{TABLE_NAME}"; create it with "bus setup-transports", leave '
                f"auto_setup on, or run: {'; '.join(self._sql.set_up)}"
            )

    def _is_to_be_cleaned(self) -> bool:
        due = self._clock.monotonic() >= self._next_cleaning
        if due:
            self._next_cleaning = self._clock.monotonic() + _BETWEEN_CLEANINGS
        return due

    def _clean(self, cursor: Any) -> None:
        cursor.execute(self._sql.clean, {"now": self._now(), "limit": _CLEANED_AT_ONCE})

    def _create(self, cursor: Any) -> None:
        if self._is_there(cursor):
            return
        for statement in self._sql.set_up:
            cursor.execute(statement)

    def _is_there(self, cursor: Any) -> bool:
        cursor.execute(self._sql.exists)
        return cursor.fetchone() is not None

    def _table_is_there(self, cursor: Any) -> bool:
        return self._has_table or self._is_there(cursor)

    def _now(self) -> int:
        return int(self._clock.now() * 1000)

    def _end(self, ttl: float | None) -> int | None:
        return None if ttl is None else self._now() + int(ttl * 1000)


class LockedProcesses:
    """Which processes live, told by the file locks that they hold. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._locks = ClaimLocks(folder)
        self._locking = threading.Lock()

    def owner(self) -> str:
        """Return the token of this process. It is alive as long as the process holds its file lock."""
        with self._locking:
            return self._locks.token()

    def is_alive(self, owner: str) -> bool:
        """Tell whether the process that got this token lives; the lock file of a dead one is removed."""
        if owner == self._locks.held_token:
            return True
        with self._locks.dead(owner) as dead:
            return not dead

    def release(self) -> None:
        """Let this process's token go. Idempotent."""
        with self._locking:
            self._locks.release()

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        self._locks.forget()
        self._locking = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Statements:
    """SQL texts with named parameters. ``now`` and ``ends`` are milliseconds since the epoch."""

    set_up: tuple[str, ...]
    exists: str
    forget: str
    put_if_absent: str
    swap: str
    delete_if: str
    get: str
    clean: str


def _statements(dialect: Dialect) -> _Statements:
    table = Table(
        TABLE_NAME,
        MetaData(),
        # As wide as every database can index it.
        Column("key", String(255).with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), "mysql"), primary_key=True),
        Column("value", Text().with_variant(mysql.TEXT(collation="utf8mb4_bin"), "mysql"), nullable=False),
        Column("expires_at", BigInteger),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    index = Index(f"{TABLE_NAME}_expires_at", table.c.expires_at)
    is_over = table.c.expires_at <= bindparam("now")
    lives = or_(table.c.expires_at.is_(None), table.c.expires_at > bindparam("now"))
    here = table.c.key == bindparam("at")
    has_expected = (here, table.c.value == bindparam("expected"), lives)
    new: dict[str, ColumnElement[object]] = {"value": bindparam("new"), "expires_at": bindparam("ends")}
    over = select(table.c.key).where(is_over).limit(bindparam("limit")).offset(literal_column("0"))
    if dialect.name == "mysql":  # it does not look into the table that it deletes from, but at what it found there
        over = select(over.subquery().c.key)
    statements: dict[str, ClauseElement] = {
        "forget": delete(table).where(table.c.key == bindparam("put_key"), is_over),
        "put_if_absent": _put_if_absent(table, is_over, dialect),
        "swap": update(table).where(*has_expected).values(new),
        "delete_if": delete(table).where(*has_expected),
        "get": select(table.c.value).where(here, lives),
        "clean": delete(table).where(table.c.key.in_(over)),
    }
    texts = {name: str(each.compile(dialect=dialect)) for name, each in statements.items()}
    create = (CreateTable(table, if_not_exists=True), CreateIndex(index, if_not_exists=dialect.name != "mysql"))
    return _Statements(
        set_up=tuple(str(each.compile(dialect=dialect)).strip() for each in create),
        exists=table_exists(TABLE_NAME, dialect),
        **texts,
    )


def _put_if_absent(table: Table, is_over: ColumnElement[bool], dialect: Dialect) -> ClauseElement:
    """Return an INSERT that takes the place of a value whose time is over; in MySQL that is deleted before."""
    if dialect.name == "mysql":
        return (
            mysql.insert(table)
            .prefix_with("IGNORE")
            .values(key=bindparam("put_key"), value=bindparam("new"), expires_at=bindparam("ends"))
        )
    put = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table).values(
        key=bindparam("put_key"), value=bindparam("new"), expires_at=bindparam("ends")
    )
    return put.on_conflict_do_update(
        index_elements=[table.c.key],
        set_={"value": put.excluded.value, "expires_at": put.excluded.expires_at},
        where=is_over,
    )


def _text(value: bytes | str) -> str:
    """Return a column's text; our own connection reads bytes, a handler's reads texts."""
    return value.decode() if isinstance(value, bytes) else value
