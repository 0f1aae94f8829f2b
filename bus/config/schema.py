"""The frozen model of a configuration: what the YAML can say, and what Python can say instead.

It knows neither YAML nor transports. Durations of Symfony's options keep Symfony's unit, named at the field. What may
hold a password is left out of every ``repr``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bus.rate_limit import RateLimit
from bus.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class MiddlewareConfig:
    """One entry of a bus's ``middleware`` list: a name of ours, or ``module:factory``, with its arguments.

    ``arguments`` are named; ``positional`` are those of Symfony's list form.
    """

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict, repr=False)
    positional: tuple[object, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BusConfig:
    """One bus.

    Attributes:
        default_middleware: whether the bus has its default middleware around and behind its own.
        allow_no_handlers: a message without a handler is no error.
        allow_no_senders: a message that no transport takes is no error; it is handled here.
        middleware: the user's, outermost first.
    """

    default_middleware: bool = True
    allow_no_handlers: bool = False
    allow_no_senders: bool = True
    middleware: tuple[MiddlewareConfig, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConfig:
    """One transport. ``options`` are the driver's own, checked when it is built.

    With a ``retry_service`` (``module:factory``) that decides on retries, and not ``retry``. A message that was
    delivered more than ``max_deliveries`` times without ever being settled goes to the failure transport unread.
    With an ``outbox``, the name of a connection, every send is a row in that database first, and relayed from there.
    """

    dsn: str = field(repr=False)
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    serializer: str | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    retry_service: str | None = None
    failure_transport: str | None = None
    rate_limiter: str | None = None
    outbox: str | None = None
    max_deliveries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MessengerConfig:
    """A whole messenger.

    Attributes:
        imports: modules with messages, handlers and stamps.
        buses: by name; empty means one bus called ``messenger.bus.default``.
        default_bus: needed where there are several buses.
        failure_transport: for every transport that names none of its own.
        routing: wire name, alias, dotted Python path or pattern, to the names of transports.
        rate_limiters: by name; a transport names one as its ``rate_limiter``.
        aliases: further name -> wire name of a message, or a service id -> ``module:factory``.
        connections: name -> database URL, meant by ``sql://name`` and ``doctrine://name``.
        store: DSN of the shared store.
        serializer: of the transports that name none; None is Symfony's JSON.
        source: the file that this was read from, for error messages.
        locations: where it stands in that file: path, such as ``transports.async.dsn`` -> ``file:line:column``.
    """

    imports: tuple[str, ...] = ()
    buses: Mapping[str, BusConfig] = field(default_factory=dict)
    default_bus: str | None = None
    failure_transport: str | None = None
    transports: Mapping[str, TransportConfig] = field(default_factory=dict)
    routing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rate_limiters: Mapping[str, RateLimit] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    connections: Mapping[str, str] = field(default_factory=dict, repr=False)
    store: str = field(default="sql://default", repr=False)
    serializer: str | None = None
    source: str | None = None
    locations: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def failure_transport_of(self, transport: str) -> str | None:
        """Return where messages of a transport go when they are given up: its own, else the general one.

        None for the general failure transport itself, unless it names one of its own.
        """
        own = self.transports[transport].failure_transport
        if own is not None:
            return own
        return None if transport == self.failure_transport else self.failure_transport
