"""The options of a SQL transport, and which database it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bus.errors import ConfigurationError, did_you_mean, quoted
from bus.transports.dsn import Dsn

if TYPE_CHECKING:
    from bus.transports.registry import DriverContext

DEFAULT_CONNECTION: Final = "default"
EMBEDDED_DATABASE: Final = "sqlite:///var/bus.db"

# Scheme -> kind of database.
KINDS: Final[Mapping[str, str]] = {
    "mariadb": "mysql",
    "mysql": "mysql",
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "sqlite": "sqlite",
}
_NAMING_A_CONNECTION: Final = frozenset({"doctrine", "sql"})
# What may be said of a connection in a DSN, under the names of libpq and PyMySQL.
_PARAMETERS: Final[Mapping[str, frozenset[str]]] = {
    "mysql": frozenset(
        {"connect_timeout", "ssl_ca", "ssl_cert", "ssl_disabled", "ssl_key", "ssl_verify_cert", "ssl_verify_identity"}
    ),
    "postgresql": frozenset(
        {
            "application_name",
            "channel_binding",
            "connect_timeout",
            "gssencmode",
            "krbsrvname",
            "options",
            "passfile",
            "sslcert",
            "sslcrl",
            "sslkey",
            "sslmode",
            "sslpassword",
            "sslrootcert",
            "target_session_attrs",
        }
    ),
}

_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PARTITIONS_WHEN_ORDERED = 10
_MOST_PARTITIONS = 1000
_LONGEST_QUEUE_NAME = 190  # characters, the width of Symfony's column
# What Doctrine writes into database URLs; there is no use for it here.
_DOCTRINE_PARAMETERS = frozenset({"serverVersion", "charset"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOptions:
    """Options of a SQL transport, under Symfony's names.

    Attributes:
        table_name: the table; transports may share one.
        queue_name: which of the table's messages are this transport's, at most 190 characters.
        redeliver_timeout: seconds after which a message that a PHP worker took and did not finish is delivered
            again. Messages that workers of this bus hold come back when their process is gone.
        auto_setup: create the table, or add what is missing to a table made by Symfony, when it is first used.
        partitions: over so many partitions messages with a partition key are spread, each read by one worker; 0 is
            none. The same for all that send to a queue. 10 with ``ordered``, otherwise 0.
        ordered: a failing message of a key is tried again before those that came after it.
        ordered_window: so many messages may wait behind failing ones before their partition pauses.
    """

    table_name: str = "messenger_messages"
    queue_name: str = "default"
    redeliver_timeout: int = 3600
    auto_setup: bool = True
    partitions: int | None = None
    ordered: bool = False
    ordered_window: int = 1000

    def __post_init__(self) -> None:
        if not _TABLE_NAME.fullmatch(self.table_name):
            raise ValueError('option "table_name" must be a plain name of letters, digits and "_"')
        if not 0 < len(self.queue_name) <= _LONGEST_QUEUE_NAME:
            raise ValueError(f'option "queue_name" must have 1 to {_LONGEST_QUEUE_NAME} characters')
        if self.redeliver_timeout < 1:
            raise ValueError('option "redeliver_timeout" must be at least 1 second')
        if self.partitions is not None and not 0 <= self.partitions <= _MOST_PARTITIONS:
            raise ValueError(f'option "partitions" must be 0 to {_MOST_PARTITIONS}')
        if self.ordered and self.partitions == 0:
            raise ValueError('option "ordered" needs partitions, and option "partitions" is 0')
        if self.ordered_window < 1:
            raise ValueError('option "ordered_window" must be at least 1 message')

    @property
    def number_of_partitions(self) -> int:
        """Over how many partitions keyed messages are spread; 0: none."""
        if self.partitions is not None:
            return self.partitions
        return _PARTITIONS_WHEN_ORDERED if self.ordered else 0


def database_dsn(subject: str, dsn: Dsn, context: DriverContext) -> Dsn:
    """Return the DSN of the database that a transport's, a store's or an outbox's DSN means.

    ``sqlite:``, ``postgresql:`` and their like say it themselves; ``sql://name`` and ``doctrine://name`` name a
    connection. What is left of the query are parameters of the connection. ``subject`` is whose DSN it is, for error
    messages.

    Raises:
        ConfigurationError: no such connection, or another kind of database.
    """
    if dsn.scheme not in _NAMING_A_CONNECTION:
        known = {name: value for name, value in dsn.query.items() if name in connection_parameters(dsn.scheme)}
        return replace(dsn, scheme=KINDS[dsn.scheme], query=known)
    connection = ",".join(each.name for each in dsn.hosts) or DEFAULT_CONNECTION
    url = Dsn.parse(_connection_url(subject, connection, context))
    subject = f'{subject}, connection "{connection}"'
    kind = KINDS.get(url.scheme)
    if kind is None:
        raise ConfigurationError(
            f'{subject}: "{url.scheme}" is no database that this version knows; it knows: {quoted(sorted(KINDS))}'
            f"{did_you_mean(url.scheme, KINDS)}"
        )
    unknown = sorted(url.query.keys() - connection_parameters(url.scheme) - _DOCTRINE_PARAMETERS)
    if unknown:
        raise ConfigurationError(f"{subject}: its URL has unknown parameters: {quoted(unknown)}")
    return replace(url, scheme=kind)


def own_options(dsn: Dsn) -> Dsn:
    """Return a DSN without the parameters of its connection."""
    parameters = connection_parameters(dsn.scheme)
    return replace(dsn, query={name: value for name, value in dsn.query.items() if name not in parameters})


def connection_parameters(scheme: str) -> frozenset[str]:
    """Return the parameters of a connection that may stand in the query of a DSN, beside options."""
    return _PARAMETERS.get(KINDS.get(scheme, ""), frozenset())


def database_path(subject: str, dsn: Dsn, context: DriverContext) -> Path:
    """Return the absolute path of the SQLite file that a DSN means.

    Raises:
        ConfigurationError: no such connection, another kind of database, or no usable path.
    """
    found = database_dsn(subject, dsn, context)
    if found.scheme != "sqlite":
        raise ConfigurationError(f'{subject}: "{found.scheme}" is not part of this version here; "sqlite" is')
    return sqlite_path(subject, found)


def _connection_url(subject: str, connection: str, context: DriverContext) -> str:
    url = context.connections.get(connection)
    if url is not None:
        return url
    if connection == DEFAULT_CONNECTION:
        return context.environment.get("DATABASE_URL") or EMBEDDED_DATABASE
    valid = sorted({*context.connections, DEFAULT_CONNECTION})
    raise ConfigurationError(
        f'{subject}: there is no connection "{connection}"; '
        f"connections are: {quoted(valid)}{did_you_mean(connection, valid)}"
    )


def sqlite_path(subject: str, dsn: Dsn) -> Path:
    """Return the absolute path of the file that a ``sqlite:`` DSN names.

    Raises:
        ConfigurationError: no usable path.
    """
    if dsn.hosts or dsn.user is not None:
        raise ConfigurationError(
            f'{subject}: "sqlite:" is followed by three slashes and a path, as in "{EMBEDDED_DATABASE}", '
            'or by four and an absolute path, as in "sqlite:////srv/bus.db"'
        )
    path = dsn.path.removeprefix("/")
    if path in ("", ":memory:"):
        raise ConfigurationError(
            f"{subject}: a SQLite database in memory is seen by one connection only and lost with it; "
            'name a file, or use "in-memory://"'
        )
    return Path(path).absolute()
