"""Opens the database that a DSN means, for stores, outboxes and transactions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bus.clock import Clock
from bus.transports.dsn import Dsn
from bus.transports.sql.connection import SqliteDatabase
from bus.transports.sql.database import Database
from bus.transports.sql.options import KINDS, sqlite_path

if TYPE_CHECKING:
    from bus.transports.sql.server.client import Client


def open_database(subject: str, dsn: Dsn) -> Database:
    """Return the database of a DSN that names one itself. Connects to nothing yet.

    Raises:
        ConfigurationError: the DSN lacks something. ``subject`` is whose DSN it is.
        MissingExtraError: its client library is not installed.
    """
    if dsn.scheme == "sqlite":
        return SqliteDatabase(sqlite_path(subject, dsn))
    from bus.transports.sql.server.database import ServerDatabase

    return ServerDatabase(client_of(dsn))


def client_of(dsn: Dsn) -> Client:
    """Return what connects to the server of a DSN."""
    if dsn.scheme == "mysql":
        from bus.transports.sql.server.mysql import MysqlClient

        return MysqlClient(dsn)
    from bus.transports.sql.server.postgresql import PostgresClient

    return PostgresClient(dsn)


def database_at(place: str | Path) -> Database:
    """Return the database of a DSN, or the SQLite file of a path."""
    text = str(place)
    scheme = text.partition("://")[0]
    if isinstance(place, str) and scheme in KINDS and "://" in text:
        dsn = Dsn.parse(text)
        return open_database(f'"{dsn}"', Dsn(KINDS[scheme], dsn.hosts, dsn.user, dsn.password, dsn.path, dsn.query))
    return SqliteDatabase(Path(place).absolute())


def clock_of(database: Database, clock: Clock) -> Clock:
    """Return the clock by which leases and due times in a database are told: the server's, where there is one."""
    if isinstance(database, SqliteDatabase):
        return clock
    from bus.transports.sql.server.clock import ServerClock

    return ServerClock(database)
