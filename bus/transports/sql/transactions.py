"""The connections in which handlers work: how their transactions begin and end on each kind of database."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import URL, Connection, Engine, create_engine, event

from bus.errors import BusError, ConnectionLostError
from bus.transports.dsn import Dsn
from bus.transports.sql.connection import database_name, is_busy, translated
from bus.transports.sql.databases import client_of
from bus.transports.sql.options import sqlite_path

if TYPE_CHECKING:
    from bus.transports.sql.server.client import Client

_SLICE: Final = 0.25  # seconds that SQLite waits inside a call for another writer
_PATIENCE: Final = 30.0  # seconds that a handler waits for another writer
_PAUSE: Final = (0.001, 0.02)  # seconds between two tries


class Transactions(Protocol):
    """Opens connections to one database, and begins and ends transactions on them.

    Attributes:
        database: which database it is; equal for every way to say it.
        engine: as many connections as handlers run; a few are kept.
    """

    database: str
    engine: Engine

    def connect(self) -> Connection:
        """Return a connection."""

    def begin(self, connection: Any) -> None:
        """Begin a transaction on a DBAPI connection, unless that is done by its first statement, or has been."""

    def commit(self, connection: Any) -> None:
        """Commit on a DBAPI connection. Raises TransportError where the database did not do it, or perhaps did."""

    def roll_back(self, connection: Any) -> None:
        """Undo everything on a DBAPI connection. Raises what the client library raises."""


def transactions_on(subject: str, dsn: Dsn) -> Transactions:
    """Return the transactions of handlers on the database of a DSN. ``subject`` is whose DSN it is."""
    if dsn.scheme == "sqlite":
        return SqliteTransactions(sqlite_path(subject, dsn))
    return ServerTransactions(client_of(dsn))


class SqliteTransactions:
    """Transactions in a SQLite file. They begin by writing, and wait for the writer before them."""

    def __init__(self, path: Path) -> None:
        self.database = database_name(path)
        self._path = path
        self.engine = create_engine(
            URL.create("sqlite", database=str(path)),
            # The driver begins no transaction by itself: ours begins by writing, see begin.
            connect_args={"isolation_level": None, "check_same_thread": False, "timeout": _SLICE},
            # As many connections as handlers run; a few are kept, for opening one costs as much as a small handler.
            max_overflow=-1,
        )
        event.listen(self.engine, "connect", _set_up)
        event.listen(self.engine, "before_cursor_execute", self._before_statement)
        event.listen(self.engine, "commit", _refuse)

    def connect(self) -> Connection:
        """Return a connection; the file's folder is made where it is missing."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self.engine.connect()

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin the transaction unless it has begun, waiting for another writer."""
        waited_since = time.monotonic()
        while not connection.in_transaction:
            try:
                # Not deferred: a transaction that begins by reading cannot become a writing one once somebody else has
                # written, and SQLite does not wait then (SQLITE_BUSY_SNAPSHOT).
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                waited = time.monotonic() - waited_since
                if not is_busy(error):
                    raise
                if waited > _PATIENCE:
                    raise ConnectionLostError(
                        f"A handler's transaction cannot begin: another connection has been writing for {waited:.0f} s"
                    ) from error
                time.sleep(random.uniform(*_PAUSE))  # noqa: S311 - spreads load, hides nothing

    def commit(self, connection: sqlite3.Connection) -> None:
        """Commit. Raises TransportError where the database did not do it, or perhaps did."""
        try:
            if connection.in_transaction:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translated(self.database, error) from error

    def roll_back(self, connection: sqlite3.Connection) -> None:
        """Undo everything."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _before_statement(self, connection: Connection, *_: object) -> None:
        driver_connection = connection.connection.driver_connection
        assert isinstance(driver_connection, sqlite3.Connection)
        self.begin(driver_connection)


class ServerTransactions:
    """Transactions on a server, which begin with their first statement."""

    def __init__(self, client: Client) -> None:
        self.database = client.name
        self._client = client
        self.engine = create_engine(
            client.url, creator=client.connect_for_handlers, max_overflow=-1, pool_pre_ping=True
        )
        # Looks at the connection instead of asking the server, which would be a round trip for each handler.
        self.engine.dialect.do_ping = client.is_usable  # type: ignore[assignment,method-assign]
        event.listen(self.engine, "commit", _refuse)

    def connect(self) -> Connection:
        """Return a connection that was not cut while nobody used it."""
        try:
            return self.engine.connect()
        except self._client.errors as error:
            raise self._client.lost(error) from error

    def begin(self, connection: Any) -> None:
        """Do nothing: the first statement begins it."""

    def commit(self, connection: Any) -> None:
        """Commit. Raises TransportError where the database did not do it, or perhaps did."""
        if self._client.has_failed(connection):
            raise BusError(
                f'A statement of a handler failed on "{self.database}", and with it the whole transaction, but the '
                "handler went on; statements that may fail belong in a savepoint (session.begin_nested())"
            )
        try:
            connection.commit()
        except self._client.errors as error:
            raise self._client.lost(error) from error

    def roll_back(self, connection: Any) -> None:
        """Undo everything."""
        connection.rollback()


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _refuse(_: Connection) -> None:
    raise BusError(
        "A handler in a transaction does not commit by itself: that is done when it returns, together with the record "
        "that it is done and with what it dispatched."
    )
