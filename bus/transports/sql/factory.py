"""Which database a transport is in, and its driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bus.errors import ConfigurationError
from bus.transports.dsn import Dsn, options_from
from bus.transports.sql.driver import SqlDriver
from bus.transports.sql.options import SqlOptions, database_dsn, own_options, sqlite_path

if TYPE_CHECKING:
    from bus.store.ownership import Ownership
    from bus.transports.registry import DriverContext


def create(name: str, dsn: Dsn, options: Mapping[str, object], context: DriverContext) -> SqlDriver[Any]:
    """Build the driver of a transport whose DSN names a database, or a connection."""
    subject = f'Transport "{name}"'
    database = database_dsn(subject, dsn, context)
    checked = options_from(SqlOptions, own_options(dsn), options, name)
    ownership = _ownership(subject, database, checked, context)
    if database.scheme == "sqlite":
        from bus.transports.sql.sqlite_driver import SqliteDriver

        return SqliteDriver(sqlite_path(subject, database), checked, context.clock, ownership)
    if database.scheme == "mysql":
        from bus.transports.sql.server.database import ServerDatabase
        from bus.transports.sql.server.driver import ServerDriver
        from bus.transports.sql.server.mysql import MysqlClient
        from bus.transports.sql.server.mysql_table import MysqlTable

        return ServerDriver(ServerDatabase(MysqlClient(database)), MysqlTable, checked, context.clock, ownership)
    from bus.transports.sql.server.postgresql import PostgresClient
    from bus.transports.sql.server.postgresql_driver import PostgresDriver

    return PostgresDriver(PostgresClient(database), checked, context.clock, ownership)


def _ownership(subject: str, database: Dsn, options: SqlOptions, context: DriverContext) -> Ownership | None:
    """Return what keeps the owners of partitions: a store on the same server."""
    if context.ownership is None:
        if options.number_of_partitions:
            raise ConfigurationError(f"{subject}: partitions need a store beside the queue, and there is none")
        return None
    if database.scheme == "sqlite":
        # Named by its whole path, so that it is one store, whichever way leads to it.
        database = replace(database, path=f"/{sqlite_path(subject, database)}")
    query = {**database.query, "auto_setup": str(options.auto_setup).lower()}
    return context.ownership(replace(database, query=query), f"{options.table_name}:{options.queue_name}")
