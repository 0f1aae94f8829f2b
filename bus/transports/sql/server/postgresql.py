"""PostgreSQL by psycopg: connections, what their errors mean, and the notifications between processes."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from bus.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectionLostError,
    MissingExtraError,
    TransportError,
)
from bus.transports.dsn import Dsn
from bus.transports.sql.server.client import Fault

try:
    import psycopg
    from psycopg import sql
    from psycopg.pq import TransactionStatus
except ModuleNotFoundError:
    raise MissingExtraError(
        'PostgreSQL needs the package "psycopg", which is not installed; install it with: '
        'pip install "messenger-bus[postgres]", or: uv add "messenger-bus[postgres]"'
    ) from None

_PORT: Final = 5432
_DEFAULTS: Final[Mapping[str, str]] = {
    "application_name": "bus",
    "connect_timeout": "3",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "client_encoding": "UTF8",
}
# Queues are short one moment and long the next, and statistics follow late: a plan that reads the whole table must not
# be chosen while they are wrong. Compiling plans, which that would set off, costs more than they take.
_SETTINGS: Final = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"
_RELAXED: Final = "SET synchronous_commit = off"
_TABLES_LOCK: Final = 0x6D657373  # any number that other programs hardly use

# Errors by their SQLSTATE, or its class; https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDONE: Final = frozenset(
    {
        "25006",  # read only: the server is no longer the primary one
        "40001",  # serialization failure
        "40P01",  # deadlock
        "53100",  # disk full
        "53200",  # out of memory
        "53300",  # too many connections
        "55P03",  # a lock is not available
        "57014",  # cancelled by an administrator or a timeout
        "57P01",  # the backend was terminated: told before the statement has taken effect
        "57P03",  # the server is starting up or shutting down
    }
)
_DENIED: Final = frozenset({"28", "3D", "3F", "42"})
_REFUSED: Final = frozenset({"22", "23", "54"})
_REFUSALS: Final = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")


def postgresql_dialect() -> Dialect:
    """Return the dialect for which statements are compiled."""
    dialect: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]
    return dialect


class PostgresClient:
    """Opens connections to one PostgreSQL database."""

    errors = (psycopg.Error,)
    relaxes = True
    url = "postgresql+psycopg://"

    def __init__(self, dsn: Dsn) -> None:
        """``dsn`` has several hosts where the primary server may change; the one that takes writes is used."""
        database = dsn.path.removeprefix("/")
        if not database:
            raise ConfigurationError('a PostgreSQL DSN names a database, as in "postgresql://user@localhost/shop"')
        hosts = [(each.name or "localhost", each.port or _PORT) for each in dsn.hosts] or [("localhost", _PORT)]
        self.name = f"postgresql://{','.join(f'{host}:{port}' for host, port in hosts)}/{database}"
        self.dialect: Dialect = postgresql_dialect()
        given = {
            "host": ",".join(host for host, _ in hosts),
            "port": ",".join(str(port) for _, port in hosts),
            "dbname": database,
            "user": dsn.user,
            "password": dsn.password,
        }
        if len(hosts) > 1:
            given["target_session_attrs"] = "read-write"
        self._arguments = {
            **_DEFAULTS,
            **{name: value for name, value in given.items() if value is not None},
            **dsn.query,
        }

    def connect(self, *, lasts: bool = True) -> psycopg.Connection[Any]:
        """Return a new connection in autocommit mode."""
        connection: psycopg.Connection[Any] = psycopg.connect(autocommit=True, **self._arguments)  # type: ignore[arg-type]
        connection.execute(_SETTINGS if lasts else f"{_SETTINGS}; {_RELAXED}")
        return connection

    def connect_for_handlers(self) -> psycopg.Connection[Any]:
        """Return a new connection with the server's own settings, on which a statement begins a transaction."""
        return psycopg.connect(**self._arguments)  # type: ignore[arg-type]

    def has_failed(self, connection: psycopg.Connection[Any]) -> bool:
        """Tell whether a statement has failed and taken its transaction along: a COMMIT would undo it, silently."""
        return connection.info.transaction_status is TransactionStatus.INERROR

    def lost(self, error: Exception) -> TransportError:
        """Return our error for one at connecting or committing."""
        denied = self.fault_of(error, connecting=True) is Fault.DENIED
        return (AccessDeniedError if denied else ConnectionLostError)(f'database "{self.name}": {error}')

    def is_usable(self, connection: psycopg.Connection[Any]) -> bool:
        """Tell whether an idle connection is still good: a server has nothing to say on one, but that it ends."""
        if connection.closed:
            return False
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return not poll.poll(0)

    def is_broken(self, connection: psycopg.Connection[Any]) -> bool:
        """Tell whether a connection cannot be used again after an error."""
        return bool(connection.closed) or connection.info.transaction_status is TransactionStatus.ACTIVE

    def cut(self, connection: psycopg.Connection[Any]) -> None:
        """End a connection on which another thread waits."""
        with suppress(OSError, psycopg.Error):
            duplicate = socket.socket(fileno=os.dup(connection.fileno()))
            try:
                duplicate.shutdown(socket.SHUT_RDWR)
            finally:
                duplicate.close()

    def fault_of(self, error: Exception, *, connecting: bool = False) -> Fault:
        """Say what an error means."""
        state = getattr(error, "sqlstate", None)
        if state is None:
            if connecting and _is_refusal(str(error)):
                return Fault.DENIED
            return Fault.UNKNOWN if isinstance(error, psycopg.OperationalError | OSError) else Fault.REFUSED
        if state in _UNDONE:
            return Fault.UNDONE
        if state[:2] in _DENIED:
            return Fault.DENIED
        return Fault.REFUSED if state[:2] in _REFUSED else Fault.UNKNOWN

    def begin(self, cursor: psycopg.Cursor[Any]) -> None:
        """Begin a transaction."""
        cursor.execute("BEGIN")

    def lock_tables(self, cursor: psycopg.Cursor[Any]) -> None:
        """Keep others from creating or changing tables of this package until the transaction's end."""
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_TABLES_LOCK,))

    def unlock_tables(self, cursor: psycopg.Cursor[Any]) -> None:
        """Do nothing: the lock goes with the transaction."""

    def listen(self, connection: psycopg.Connection[Any], channel: str) -> None:
        """Have the server tell this connection what is said on a channel."""
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    def hears(self, connection: psycopg.Connection[Any], payload: str, *, within: float) -> bool:
        """Wait for a notification; tell whether one of those that came has this payload."""
        found = [each.payload == payload for each in connection.notifies(timeout=within, stop_after=1)]
        found += [each.payload == payload for each in connection.notifies(timeout=0)]
        return any(found)


def _is_refusal(text: str) -> bool:
    """Tell a server that does not let us in from one that is not there: libpq tells the two by texts only."""
    return any(
        each in text for each in ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password")
    )
