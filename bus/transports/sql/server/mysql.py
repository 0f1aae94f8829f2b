"""MariaDB and MySQL by PyMySQL: connections, and what their errors mean."""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Dialect
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

from bus.errors import AccessDeniedError, ConfigurationError, ConnectionLostError, MissingExtraError, TransportError
from bus.transports.dsn import Dsn
from bus.transports.sql.server.client import Fault

try:
    import pymysql
    from pymysql.constants import CLIENT
except ModuleNotFoundError:
    raise MissingExtraError(
        'MariaDB and MySQL need the package "PyMySQL", which is not installed; install it with: '
        'pip install "messenger-bus[mysql]", or: uv add "messenger-bus[mysql]"'
    ) from None

_PORT: Final = 3306
_CONNECTING: Final = 3  # seconds
_TABLES_LOCK: Final = "bus_tables"

# Errors by their number; https://mariadb.com/kb/en/mariadb-error-codes/
_UNDONE: Final = frozenset(
    {
        1021,  # disk full
        1040,  # too many connections
        1041,  # out of memory
        1053,  # shutting down
        1114,  # a table is full
        1205,  # waited too long for a lock
        1213,  # deadlock
        1290,  # read only: the server is no longer the primary one
        1317,  # interrupted
        1792,  # read only transaction
        1836,  # read only
        1927,  # the connection was killed: told before the statement has taken effect
        3024,  # took too long
    }
)
_DENIED: Final = frozenset({1044, 1045, 1049, 1054, 1142, 1143, 1146, 1227, 1698})
_LOST: Final = frozenset({0, 2002, 2003, 2006, 2013, 2014, 2055})


def mysql_dialect() -> Dialect:
    """Return the dialect for which statements are compiled."""
    dialect: Dialect = MySQLDialect_pymysql(paramstyle="pyformat")
    return dialect


class MysqlClient:
    """Opens connections to one MariaDB or MySQL database."""

    errors = (pymysql.err.Error,)
    relaxes = False
    url = "mysql+pymysql://"

    def __init__(self, dsn: Dsn) -> None:
        database = dsn.path.removeprefix("/")
        if not database or len(dsn.hosts) != 1:
            raise ConfigurationError('a MySQL DSN names one host and a database, as in "mysql://user@localhost/shop"')
        host, port = dsn.hosts[0].name or "localhost", dsn.hosts[0].port or _PORT
        self.name = f"mysql://{host}:{port}/{database}"
        self.dialect = mysql_dialect()
        self._arguments: Mapping[str, Any] = {
            "host": host,
            "port": port,
            "database": database,
            "user": dsn.user,
            "password": dsn.password or "",
            "charset": "utf8mb4",
            "connect_timeout": int(dsn.query.get("connect_timeout", _CONNECTING)),
            # An UPDATE tells how many rows it found, as elsewhere, and not how many it changed.
            "client_flag": CLIENT.FOUND_ROWS,
            **{name: _option(value) for name, value in dsn.query.items() if name.startswith("ssl_")},
        }

    def connect(self, *, lasts: bool = True) -> Any:
        """Return a new connection in autocommit mode; ``lasts`` is the server's affair here."""
        # Gaps between rows are not locked: claims of several workers would wait for each other.
        isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
        return pymysql.connect(autocommit=True, init_command=isolation, **self._arguments)

    def connect_for_handlers(self) -> Any:
        """Return a new connection with the server's own settings, on which a statement begins a transaction."""
        return pymysql.connect(autocommit=False, **self._arguments)

    def has_failed(self, connection: Any) -> bool:
        """Tell that no failed statement takes the transaction along."""
        return False

    def lost(self, error: Exception) -> TransportError:
        """Return our error for one at connecting or committing."""
        denied = self.fault_of(error) is Fault.DENIED
        return (AccessDeniedError if denied else ConnectionLostError)(f'database "{self.name}": {error}')

    def is_usable(self, connection: Any) -> bool:
        """Tell whether an idle connection is still good: a server has nothing to say on one, but that it ends."""
        if not connection.open:
            return False
        poll = select.poll()
        poll.register(connection._sock, select.POLLIN)
        return not poll.poll(0)

    def is_broken(self, connection: Any) -> bool:
        """Tell whether a connection cannot be used again after an error."""
        return not connection.open

    def cut(self, connection: Any) -> None:
        """End a connection on which another thread waits."""
        with suppress(OSError, AttributeError):
            connection._sock.shutdown(socket.SHUT_RDWR)

    def fault_of(self, error: Exception, *, connecting: bool = False) -> Fault:
        """Say what an error means."""
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        if number in _UNDONE:
            return Fault.UNDONE
        if number in _DENIED:
            return Fault.DENIED
        return Fault.UNKNOWN if number in _LOST or isinstance(error, OSError) else Fault.REFUSED

    def begin(self, cursor: Any) -> None:
        """Begin a transaction."""
        cursor.execute("BEGIN")

    def lock_tables(self, cursor: Any) -> None:
        """Keep others from creating or changing tables of this package until ``unlock_tables``."""
        cursor.execute("SELECT GET_LOCK(%s, 5)", (_TABLES_LOCK,))

    def unlock_tables(self, cursor: Any) -> None:
        """Let others do so again."""
        cursor.execute("SELECT RELEASE_LOCK(%s)", (_TABLES_LOCK,))


def _option(value: str) -> str | bool:
    return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
