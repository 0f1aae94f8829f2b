"""Which database a transport is in, and its driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from bus.errors import ConfigurationError
from bus.transports.dsn import Dsn, options_from
from bus.transports.sql.options import SqlOptions, database_path
from bus.transports.sql.sqlite_driver import SqliteDriver

if TYPE_CHECKING:
    from bus.transports.registry import DriverContext


def create(name: str, dsn: Dsn, options: Mapping[str, object], context: DriverContext) -> SqliteDriver:
    """Build the driver of a ``sqlite://``, ``sql://`` or ``doctrine://`` transport."""
    path = database_path(f'Transport "{name}"', dsn, context)
    checked = options_from(SqlOptions, dsn, options, name)
    ownership = None
    if context.ownership is not None:
        ownership = context.ownership(
            f"sqlite:///{quote(str(path))}?auto_setup={str(checked.auto_setup).lower()}",
            f"{checked.table_name}:{checked.queue_name}",
        )
    elif checked.number_of_partitions:
        raise ConfigurationError(f'Transport "{name}": partitions need a store beside the queue, and there is none')
    return SqliteDriver(path, checked, context.clock, ownership)
