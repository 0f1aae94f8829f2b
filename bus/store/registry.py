"""Which DSN is which store. Stores are imported when one is needed, and not before."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from bus.errors import ConfigurationError, did_you_mean, quoted
from bus.store.base import Store
from bus.transports.base import SetsUp
from bus.transports.dsn import Dsn
from bus.transports.registry import DriverContext

_SQL: Final = ("doctrine", "mariadb", "mysql", "postgres", "postgresql", "sql", "sqlite")
_REDIS: Final = ("redis", "rediss")
SCHEMES: Final = (*_SQL, "memory", *_REDIS)
_AUTO_SETUP: Final = "auto_setup"
_PREFIX: Final = "prefix"


class StoreFactory:
    """Makes the store of a DSN when it is first asked for. Thread-safe.

    Attributes:
        dsn: which store.

    Raises:
        ConfigurationError: there is no such store, or its options are wrong.
    """

    def __init__(self, dsn: str | Dsn, context: DriverContext) -> None:
        self.dsn = _checked(Dsn.parse(dsn) if isinstance(dsn, str) else dsn)
        self._context = context
        self._lock = threading.Lock()
        self._store: Store | None = None

    def get(self) -> Store:
        """Return the store, the same one each time. Connects to nothing yet.

        Raises:
            ConfigurationError: the DSN names a connection that does not exist.
        """
        with self._lock:
            if self._store is None:
                self._store = self._create()
            return self._store

    def close(self) -> None:
        """Close the store if there is one. Idempotent."""
        if self._store is not None:
            self._store.close()

    def _create(self) -> Store:
        if self.dsn.scheme == "memory":
            from bus.store.memory import MemoryStore

            return MemoryStore(self._context.clock)
        if self.dsn.scheme in _REDIS:
            from bus.store.redis import RedisStore

            # What uses a store begins its keys with words of its own.
            return RedisStore(_without_prefix(self.dsn), prefix=self.dsn.query.get(_PREFIX, ""))
        from bus.store.sql import SqlStore
        from bus.transports.sql.databases import open_database
        from bus.transports.sql.options import database_dsn

        database = open_database("The store", database_dsn("The store", self.dsn, self._context))
        auto_setup = self.dsn.query.get(_AUTO_SETUP, "true") == "true"
        return SqlStore(database, auto_setup=auto_setup, clock=self._context.clock)


class Stores:
    """The shared store, and those that name a DSN of their own; one for each DSN. Thread-safe."""

    def __init__(self, shared: str, context: DriverContext) -> None:
        self.shared = StoreFactory(shared, context)
        self._context = context
        self._by_dsn = {shared: self.shared}

    def of(self, dsn: str | None) -> Store:
        """Return the store of a DSN, or the shared one.

        Raises:
            ConfigurationError: there is no such store, or its options are wrong.
        """
        if dsn is None:
            return self.shared.get()
        factory = self._by_dsn.get(dsn)
        if factory is None:
            factory = self._by_dsn.setdefault(dsn, StoreFactory(dsn, self._context))
        return factory.get()

    def to_set_up(self) -> Mapping[str, SetsUp]:
        """Return the stores with something to create, by what they are called.

        Raises:
            ConfigurationError: a DSN names a connection that does not exist.
        """
        stores = {f"store {factory.dsn}": factory.get() for factory in self._by_dsn.values()}
        return {name: store for name, store in stores.items() if isinstance(store, SetsUp)}

    def close(self) -> None:
        """Close every store. Idempotent."""
        for factory in list(self._by_dsn.values()):
            factory.close()


def _checked(dsn: Dsn) -> Dsn:
    if dsn.scheme not in SCHEMES:
        raise ConfigurationError(
            f'no store for "{dsn.scheme}://"; there are: {quoted(SCHEMES)}{did_you_mean(dsn.scheme, SCHEMES)}'
        )
    if dsn.scheme in _REDIS:
        from bus.transports.redis.options import server_options

        server_options("The store", _without_prefix(dsn))
        return dsn
    valid = {_AUTO_SETUP} if dsn.scheme in _SQL else set()
    unknown = sorted(dsn.query.keys() - valid)
    if unknown and dsn.scheme in _SQL:
        from bus.transports.sql.options import connection_parameters

        unknown = [name for name in unknown if name not in connection_parameters(dsn.scheme)]
    if unknown:
        raise ConfigurationError(f"unknown options of a store: {quoted(unknown)}; options are: {quoted(valid)}")
    if dsn.query.get(_AUTO_SETUP, "true") not in ("true", "false"):
        raise ConfigurationError(f'the option "{_AUTO_SETUP}" of a store must be true or false')
    return dsn


def _without_prefix(dsn: Dsn) -> Dsn:
    query = {key: value for key, value in dsn.query.items() if key != _PREFIX}
    return Dsn(dsn.scheme, dsn.hosts, dsn.user, dsn.password, dsn.path, query)
