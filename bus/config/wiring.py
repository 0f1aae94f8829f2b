"""What the middleware of every bus is given when it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bus.handler_arguments import Container
from bus.outbox.outboxes import Outboxes
from bus.retry import RetryStrategy
from bus.routing import Routing
from bus.store.registry import Stores
from bus.transports.sync import SyncTransport
from bus.transports.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """The parts that middleware works with. ``closing`` collects what is called when the messenger closes."""

    routing: Routing
    transports: Mapping[str, Transport | SyncTransport]
    failure_transports: Mapping[str, str | None]
    strategies: Mapping[str, RetryStrategy]
    aliases: Mapping[str, str]
    container: Container | None
    stores: Stores
    outboxes: Outboxes
    closing: list[Callable[[], None]] = field(default_factory=list)
