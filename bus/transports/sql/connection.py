"""The connection to a SQLite database: opened when needed, guarded, and its errors translated in one place."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, cast

from sqlalchemy import URL, Dialect, Engine, NullPool, PoolProxiedConnection, create_engine
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from bus.errors import AccessDeniedError, ConnectionLostError, SendRefused, SendUnknown, TransportError

logger = logging.getLogger(__name__)

T = TypeVar("T")

DIALECT: Final[Dialect] = sqlite.dialect(paramstyle="named")

# SQLite waits this long inside a call for another writer (seconds). Short, so that close, deadlines and signals are
# seen between two tries; how long we wait in all is decided here.
_SLICE = 0.25
_PAUSE = (0.001, 0.02)  # seconds between two tries, at random, so that waiting processes do not move in step

_READING = 5.0  # seconds

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_OUTCOME_UNKNOWN = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_INTERRUPT})
# What a new connection may heal.
_BROKEN = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOTADB,
    }
)
_DENIED = frozenset({sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOTADB})

# Connections that a forked child found: using them would corrupt the parent's, and so may closing them.
_inherited: list[PoolProxiedConnection] = []


def database_name(path: Path) -> str:
    """Return what names a database file, whichever way leads to it."""
    return f"sqlite:{os.path.realpath(path)}"


class SqliteDatabase:
    """One SQLite file. Thread-safe: one connection, used by one thread at a time, because SQLite has one writer.

    ``close`` lets go of the connection and ends every wait; the next use opens it again.
    """

    dialect = DIALECT
    has_one_writer = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = database_name(path)
        self.engine: Engine = create_engine(
            URL.create("sqlite", database=str(path)),
            poolclass=NullPool,
            connect_args={"isolation_level": None, "check_same_thread": False, "timeout": _SLICE},
        )
        self._guard = threading.Lock()
        self._connection: PoolProxiedConnection | None = None
        self._waits_for_disk = True
        self._identity: tuple[int, int] | None = None
        self._closed = threading.Event()

    def read(self, work: Callable[[sqlite3.Cursor], T]) -> T:
        """Run ``work`` without a transaction; writers do not disturb it. Raises TransportError."""
        return self._persist(lambda: work(self._connected().cursor()), _READING)

    def write(
        self, work: Callable[[sqlite3.Cursor], T], *, within: float, lasts: bool = True, single: bool = False
    ) -> T:
        """Run ``work`` in one write transaction, even a ``single`` statement, and commit it; it may run several times.

        Waits ``within`` seconds for other writers, or until ``close``. What is not to last (``lasts=False``) survives
        the death of every process, and may be undone by a power failure, like everything after it: the commit does not
        wait for the disk.

        Raises:
            SendUnknown: the commit failed in a way that leaves open whether it took effect.
            TransportError: anything else; nothing took effect.
        """
        return self._persist(lambda: self._writing(work, lasts), within)

    def alter(self, work: Callable[[sqlite3.Cursor], T], *, within: float) -> T:
        """Run ``work``, which creates or changes tables, in one write transaction."""
        return self.write(work, within=within)

    def inspect(self, look: Callable[[Engine], T]) -> T:
        """Run ``look``, which opens a connection of its own. Raises TransportError."""
        return self._persist(lambda: look(self.engine), _READING)

    def exists(self) -> bool:
        """Tell whether there is a file."""
        return self.path.exists()

    def was_replaced(self) -> bool:
        """Tell whether the file was deleted or replaced since it was opened, and let go of the connection then.

        SQLite does not notice, and would write into a file that nobody can open any more.
        """
        if self._connection is None or self._identity == _identity(self.path):
            return False
        with self._guard:
            self._drop()
        logger.error("%s was deleted or replaced while it was open; opening what is there now", self)
        return True

    def close(self) -> None:
        """Let go of the connection, and end every wait. Idempotent; from any thread."""
        self._closed.set()
        with self._guard:
            self._drop()
            self._closed = threading.Event()

    def forget(self) -> None:
        """Leave the connection to the parent process. Called in a forked child, where no other thread runs."""
        if self._connection is not None:
            _inherited.append(self._connection)
        self._connection = None
        self._guard = threading.Lock()
        self._closed = threading.Event()

    def _persist(self, attempt: Callable[[], T], within: float) -> T:
        started, closed = time.monotonic(), self._closed
        while True:
            error: sqlite3.Error | OSError | None = None  # None: another thread of ours holds the connection
            if self._guard.acquire(timeout=_SLICE):
                try:
                    return attempt()
                except DBAPIError as wrapped:
                    error = cast("sqlite3.Error", wrapped.orig)
                except (sqlite3.Error, OSError) as raised:
                    error = raised
                finally:
                    if error is not None and _code(error) in _BROKEN:
                        self._drop()
                    self._guard.release()
                if _code(error) not in _BUSY:
                    raise translated(self, error) from error
            waited = time.monotonic() - started
            if closed.is_set():
                raise ConnectionLostError(f"{self} was closed while it was waited for") from error
            if waited + _SLICE > within:
                raise ConnectionLostError(
                    f"{self} is locked: another connection has been writing for more than {waited:.1f} s"
                ) from error
            closed.wait(random.uniform(*_PAUSE))  # noqa: S311 - spreads load, hides nothing

    def _writing(self, work: Callable[[sqlite3.Cursor], T], lasts: bool) -> T:
        connection = self._connected()
        cursor = connection.cursor()
        try:
            if lasts != self._waits_for_disk:
                cursor.execute(f"PRAGMA synchronous = {'FULL' if lasts else 'NORMAL'}")
                self._waits_for_disk = lasts
            # Not deferred: a transaction that begins by reading cannot become a writing one once somebody else has
            # written, and SQLite does not wait then (SQLITE_BUSY_SNAPSHOT).
            cursor.execute("BEGIN IMMEDIATE")
            result = work(cursor)
        except BaseException:
            self._roll_back(connection)
            raise
        try:
            cursor.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            if _code(error) in _OUTCOME_UNKNOWN:
                self._drop()
                raise SendUnknown(f"{self}: it is unknown whether a commit took effect: {error}") from error
            raise
        return result

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            proxied = self.engine.raw_connection()
            connection = cast("sqlite3.Connection", proxied.driver_connection)
            # Somebody else's row may hold text that is no UTF-8; it must not make the whole answer unreadable.
            connection.text_factory = bytes
            try:
                if connection.execute("PRAGMA journal_mode").fetchone() != (b"wal",):
                    connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                proxied.close()
                raise
            self._waits_for_disk = True
            self._connection, self._identity = proxied, _identity(self.path)
        return cast("sqlite3.Connection", self._connection.driver_connection)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __str__(self) -> str:
        return f'SQLite database "{self.path}"'


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of its name, or None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def translated(database: object, error: sqlite3.Error | OSError) -> TransportError:
    """Return our error for one of SQLite's; ``database`` is what it calls the database."""
    code = _code(error)
    if code == sqlite3.SQLITE_TOOBIG:
        return SendRefused(f"{database}: the message is larger than SQLite can store: {error}")
    if code == sqlite3.SQLITE_FULL:
        return ConnectionLostError(f"{database} has no space left: {error}")
    if code in _DENIED or isinstance(error, PermissionError):
        return AccessDeniedError(f"{database} cannot be used: {error}")
    return ConnectionLostError(f"{database}: {error}")


def is_busy(error: BaseException) -> bool:
    """Tell whether SQLite says that another connection is writing."""
    return _code(error) in _BUSY


def _code(error: BaseException) -> int:
    """Return SQLite's primary result code, or 0 where the error is not SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else 0
