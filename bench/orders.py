"""The message of the benchmarks with a transport, its handler, and the proof that every message was handled."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bus
from bench.rounds import Cost

MODULE = __name__
BATCH = 500

handled = 0


@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    quantity: int


@bus.handler
def count(event: OrderPlaced) -> None:
    global handled  # noqa: PLW0603 - the least that a handler can do and still prove that it ran
    handled += 1


def messenger_on(dsn: str, middleware: tuple[str, ...] = (), **options: object) -> bus.Messenger:
    """Return a messenger that sends everything to one transport, which is called ``async``."""
    return bus.Messenger(
        bus.MessengerConfig(
            imports=(MODULE,),
            transports={"async": bus.TransportConfig(dsn=dsn, options=options)},
            routing={"*": ("async",)},
            buses={"default": bus.BusConfig(middleware=tuple(bus.MiddlewareConfig(name=name) for name in middleware))},
            store=dsn if dsn.startswith("sqlite") else "memory://",
        )
    )


def send(messenger: bus.Messenger, messages: int) -> None:
    """Dispatch so many orders, in batches."""
    for first in range(0, messages, BATCH):
        last = min(first + BATCH, messages)
        messenger.bus.dispatch_many(OrderPlaced(f"o-{number}", 1) for number in range(first, last))


def proven(consume: Callable[[Path], Cost], messages: int) -> Callable[[], Cost]:
    """Give a contestant a folder of its own and make sure that it handled every message."""

    def contestant() -> Cost:
        before = handled
        with tempfile.TemporaryDirectory() as folder:
            cost = consume(Path(folder))
        if handled - before != messages:
            raise SystemExit(f"{handled - before} of {messages} messages were handled; these figures mean nothing.")
        return cost

    return contestant
