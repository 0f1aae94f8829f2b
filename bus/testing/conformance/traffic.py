"""Messages to send, and the one place where the suite waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from bus.identity import uuid7
from bus.transports.base import Delivery, Driver, Outgoing

PATIENCE: Final = 5.0  # seconds
DELAY: Final = 200  # milliseconds, for delays that a test waits for


def outgoing(
    body: bytes = b"{}",
    *,
    delay_ms: int = 0,
    priority: int = 0,
    origin: str | None = None,
    headers: dict[str, str] | None = None,
) -> Outgoing:
    """Return a message with an id of its own."""
    identity = uuid7()
    return Outgoing(
        message_id=identity,
        body=body,
        headers={"type": "test.Message"} if headers is None else headers,
        delay_ms=delay_ms,
        priority=priority,
        origin=origin,
    )


def receive(driver: Driver, count: int, limit: int = 100, *, within: float = PATIENCE) -> list[Delivery]:
    """Claim messages until there are ``count``; fail when they do not come in time."""
    received: list[Delivery] = []

    def enough() -> bool:
        received.extend(driver.get(min(limit, count - len(received))))
        return len(received) >= count

    eventually(enough, f"{count} messages should have come", within=within)
    return received


def eventually(condition: Callable[[], bool], what: str, *, within: float = PATIENCE) -> None:
    """Wait until the condition holds; fail with ``what`` in the end. The only place where this suite waits."""
    deadline = time.monotonic() + within
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, what
        never.wait(0.005)


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    """Return the bodies, in order."""
    return [delivery.body for delivery in deliveries]
