"""Which scheme is which driver. Drivers are imported when a transport needs them, and not before."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final, Protocol, cast

from bus.clock import Clock, SystemClock
from bus.errors import ConfigurationError, MissingExtraError, did_you_mean, quoted
from bus.transports.base import Driver
from bus.transports.dsn import Dsn

if TYPE_CHECKING:
    from bus.store.base import Store
    from bus.store.ownership import Ownership

ENTRY_POINT_GROUP: Final = "bus.transports"

_FACTORIES: Final[Mapping[str, str]] = {
    "amqp": "bus.transports.amqp.driver:create",
    "amqps": "bus.transports.amqp.driver:create",
    "doctrine": "bus.transports.sql:create",
    "in-memory": "bus.transports.memory:create",
    "mariadb": "bus.transports.sql:create",
    "mysql": "bus.transports.sql:create",
    "postgres": "bus.transports.sql:create",
    "postgresql": "bus.transports.sql:create",
    "redis": "bus.transports.redis:create",
    "rediss": "bus.transports.redis:create",
    "sql": "bus.transports.sql:create",
    "sqlite": "bus.transports.sql:create",
}

# Factory -> the dataclass of its options, for the reference of the configuration.
_OPTIONS: Final[Mapping[str, str]] = {
    "bus.transports.amqp.driver:create": "bus.transports.amqp.options:AmqpOptions",
    "bus.transports.memory:create": "bus.transports.memory:MemoryOptions",
    "bus.transports.redis:create": "bus.transports.redis.options:RedisOptions",
    "bus.transports.sql:create": "bus.transports.sql.options:SqlOptions",
}

# Client library -> the extra that installs it.
_EXTRAS: Final[Mapping[str, str]] = {"pika": "amqp", "redis": "redis"}

# Schemes that Symfony or the documentation name, so that the error is not "unknown".
_NOT_IN_THIS_VERSION: Final = frozenset(
    {
        "dramatiq",
        "dramatiq+amqp",
        "dramatiq+amqps",
        "dramatiq+redis",
        "dramatiq+rediss",
        "kafka",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverContext:
    """What a driver may need besides its own DSN and options.

    ``connections`` maps a name to a database URL. ``clock`` tells due times where no server does. ``ownership``
    makes what keeps the owners of a queue's partitions, from the DSN of a store and the name of the queue. ``store``
    returns the shared store.
    """

    connections: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    ownership: Callable[[str | Dsn, str], Ownership] | None = None
    store: Callable[[], Store] | None = None


class DriverFactory(Protocol):
    """What stands behind a scheme: a function that checks the options and builds the driver, without connecting."""

    def __call__(self, name: str, dsn: Dsn, options: Mapping[str, object], context: DriverContext) -> Driver:
        """Build the driver. Raises ConfigurationError where an option is wrong."""


def create_driver(name: str, dsn: str, options: Mapping[str, object], context: DriverContext) -> Driver:
    """Build the driver of the transport ``name``. Connects to nothing.

    Raises:
        ConfigurationError: the DSN cannot be read, its scheme has no driver, or an option is wrong.
        MissingExtraError: the driver needs a library that is not installed.
    """
    try:
        parsed = Dsn.parse(dsn)
    except ConfigurationError as error:
        raise ConfigurationError(f'Transport "{name}": {error}') from None
    return _factory(name, parsed.scheme)(name, parsed, options, context)


def schemes() -> tuple[str, ...]:
    """Return every scheme that has a driver here, those of installed packages included, sorted."""
    return tuple(sorted({*_FACTORIES, *(each.name for each in _entry_points())}))


def options_by_scheme() -> Mapping[tuple[str, ...], type]:
    """Return the options of each driver of this package, by the schemes that have them. Imports the drivers."""
    schemes_of: dict[str, tuple[str, ...]] = {}
    for scheme, factory in _FACTORIES.items():
        schemes_of[factory] = (*schemes_of.get(factory, ()), scheme)
    return {schemes: cast("type", _named(_OPTIONS[factory])) for factory, schemes in schemes_of.items()}


def _named(path: str) -> object:
    """Import what stands behind ``module:name``."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _factory(transport_name: str, scheme: str) -> DriverFactory:
    target = _FACTORIES.get(scheme)
    if target is not None:
        try:
            return cast("DriverFactory", _named(target))
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise MissingExtraError(
                f'Transport "{transport_name}": "{scheme}://" needs the extra "{extra}"; '
                f'install it with: pip install "messenger-bus[{extra}]", or: uv add "messenger-bus[{extra}]"'
            ) from None
    for entry_point in _entry_points():
        if entry_point.name == scheme:
            return _load(transport_name, entry_point)
    valid = ("sync", *schemes())
    if scheme in _NOT_IN_THIS_VERSION:
        raise ConfigurationError(
            f'Transport "{transport_name}": "{scheme}://" is not part of this version; it has: {quoted(valid)}'
        )
    raise ConfigurationError(
        f'Transport "{transport_name}": no driver for "{scheme}://"; '
        f"there are: {quoted(valid)}{did_you_mean(scheme, valid)}"
    )


def _load(transport_name: str, entry_point: EntryPoint) -> DriverFactory:
    try:
        return cast("DriverFactory", entry_point.load())
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing == entry_point.module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f'Transport "{transport_name}": "{entry_point.name}://" needs the package "{missing}", which is not '
            f"installed; install it with: pip install {missing}, or: uv add {missing}"
        ) from None


def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINT_GROUP))
