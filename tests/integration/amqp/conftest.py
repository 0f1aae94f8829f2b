"""Messengers on RabbitMQ, workers in threads, and a plain client that looks at what is really there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pika
import pytest

from bus import Messenger, MessengerConfig, RetryPolicy, TransportConfig, Worker, WorkerOptions

DEADLINE = 20.0  # seconds
QUICK_RETRIES = RetryPolicy(max_retries=2, delay=50, multiplier=1.0, jitter=0)


class MakesMessengers(Protocol):
    """Makes a messenger whose transports are on the virtual host of the test."""

    def __call__(self, *handlers: Callable[..., Any], **transports: dict[str, Any]) -> Messenger:
        """``transports`` are their options; all messages are routed to the first one, and "failed" keeps failures."""


@pytest.fixture
def make_messenger(amqp_dsn: str) -> Iterator[MakesMessengers]:
    with_messengers: list[Messenger] = []

    def make(*handlers: Callable[..., Any], **transports: dict[str, Any]) -> Messenger:
        first = next(iter(transports))
        messenger = Messenger(
            MessengerConfig(
                transports={
                    name: TransportConfig(
                        dsn=options.pop("dsn", f"{amqp_dsn}/{name}"), options=options, retry=QUICK_RETRIES
                    )
                    for name, options in {**transports, "failed": transports.get("failed", {})}.items()
                },
                routing={"*": (first,)},
                failure_transport="failed",
            ),
            handlers=handlers,
        )
        with_messengers.append(messenger)
        return messenger

    yield make
    for messenger in with_messengers:
        messenger.close()


@pytest.fixture
def plain(amqp_dsn: str) -> Iterator[Any]:
    """Return a channel of the client library."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_dsn))
    yield connection.channel()
    if connection.is_open:
        connection.close()


@contextmanager
def working(messenger: Messenger, *names: str, **options: Any) -> Iterator[Worker]:
    """Have a worker run in a thread."""
    worker = messenger.worker(list(names or ("async",)), options=WorkerOptions(**options))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive(), "the worker should have stopped"
        assert errors == []


def eventually(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    end = time.monotonic() + deadline
    never = threading.Event()
    while not condition():
        assert time.monotonic() < end, what
        never.wait(0.02)


def consume_all(messenger: Messenger, **options: Any) -> None:
    """Consume "async" until it is empty."""
    messenger.worker(["async"], WorkerOptions(stop_when_empty=True, **options)).run()
