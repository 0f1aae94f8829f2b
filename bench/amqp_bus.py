"""The bus on RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable

import bus
from bench.orders import BATCH, OrderPlaced

handle: Callable[[OrderPlaced], None]


@bus.handler
def take(order: OrderPlaced) -> None:
    handle(order)


class Bus:
    """One messenger, with the default middleware."""

    def __init__(self, dsn: str) -> None:
        config = bus.MessengerConfig(
            imports=(__name__,),
            transports={"async": bus.TransportConfig(dsn=f"{dsn}/bus")},
            routing={"*": ("async",)},
        )
        self._messenger = bus.Messenger(config)

    def sender(self) -> Callable[[OrderPlaced], object]:
        return self._messenger.bus.dispatch

    def fill(self, orders: list[OrderPlaced]) -> None:
        for start in range(0, len(orders), BATCH):
            self._messenger.bus.dispatch_many(orders[start : start + BATCH])

    def work(self, handler: Callable[[OrderPlaced], None]) -> None:
        global handle  # noqa: PLW0603 - handlers are found in modules
        handle = handler
        self._messenger.worker(["async"]).run()
