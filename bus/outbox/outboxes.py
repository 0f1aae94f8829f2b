"""The outboxes of a messenger: one for each database that a transaction or a transport names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bus.store.registry import Stores
from bus.transports.base import SetsUp
from bus.transports.dsn import Dsn, Host
from bus.transports.registry import DriverContext

if TYPE_CHECKING:
    from bus.outbox.relay import Carrier, Outbox


class Outboxes:
    """Makes outboxes when they are named, one for each database. Used by one thread until the messenger is built.

    ``carriers`` are the transports by name; they may be added until something is sent.
    """

    def __init__(self, context: DriverContext, stores: Stores) -> None:
        self.carriers: dict[str, Carrier] = {}
        self._context = context
        self._stores = stores
        self._by_name: dict[str, tuple[Dsn, Outbox]] = {}

    def at(self, subject: str, connection: str) -> tuple[Dsn, Outbox]:
        """Return the DSN of the database that a connection means, and the outbox in it. ``subject`` is who asks.

        Raises:
            ConfigurationError: there is no such connection.
        """
        from bus.outbox.relay import Outbox
        from bus.store.claims import Claims
        from bus.transports.sql.databases import open_database
        from bus.transports.sql.options import database_dsn

        dsn = database_dsn(subject, Dsn("sql", (Host(connection),)), self._context)
        database = open_database(subject, dsn)
        if database.name not in self._by_name:
            claims = self._stores.shared
            self._by_name[database.name] = (
                dsn,
                Outbox(database, self.carriers, lambda: Claims(claims.get()), self._context.clock),
            )
        return self._by_name[database.name]

    def to_set_up(self) -> Mapping[str, SetsUp]:
        """Return them by what they are called."""
        return {f"outbox {name.removeprefix('sqlite:')}": outbox for name, (_, outbox) in self._by_name.items()}

    def start(self) -> None:
        """Begin to sweep all of them. Returns at once; harmless when called again."""
        for _, outbox in self._by_name.values():
            outbox.start()

    def close(self) -> None:
        """Stop sweeping and let go of the databases. Idempotent."""
        for _, outbox in self._by_name.values():
            outbox.close()
