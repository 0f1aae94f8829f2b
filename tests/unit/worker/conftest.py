"""A worker over transports in memory, and what its tests wait with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from bus.clock import SystemClock
from bus.envelope import Envelope
from bus.events import Events
from bus.messages import MessageTypes, message
from bus.serializer import JsonSerializer
from bus.settlement import Settler
from bus.stamps import DelayStamp, PartitionKeyStamp
from bus.transports.memory import MemoryDriver
from bus.transports.transport import Transport
from bus.worker import Worker, WorkerOptions

DEADLINE = 20.0  # seconds; nothing here takes one


@message("test.worker.job")
@dataclass(frozen=True)
class Job:
    name: str


class Rig:
    """Transports in memory, a worker on them, and a handler that a test puts in."""

    def __init__(self, *names: str) -> None:
        serializer = JsonSerializer(MessageTypes([Job]))
        self.transports = {
            name: Transport(name, MemoryDriver(name, SystemClock()), serializer) for name in names or ("async",)
        }
        self.transport = next(iter(self.transports.values()))
        self.events = Events()
        self.settler = Settler(self.transports, dict.fromkeys(self.transports), self.events)
        self.handled: list[str] = []
        self.handle: Callable[[Envelope], object] = lambda envelope: None

    def send(self, *names: str, to: str = "", key: str | None = None, delay: int = 0) -> None:
        stamps = (*((PartitionKeyStamp(key),) if key else ()), *((DelayStamp(delay),) if delay else ()))
        for name in names:
            (self.transports[to] if to else self.transport).send(Envelope(Job(name), stamps))

    def dispatch(self, envelope: Envelope) -> Envelope:
        self.handle(envelope)
        self.handled.append(envelope.message.name)
        return envelope

    def worker(self, *, is_async: bool = False, **options: object) -> Worker:
        return Worker(
            list(self.transports.values()),
            self.dispatch,
            self.settler,
            self.events,
            WorkerOptions(**options),  # type: ignore[arg-type]
            is_async=lambda envelope: is_async,
        )

    def run_until_empty(self, **options: object) -> None:
        self.worker(stop_when_empty=True, **options).run()

    def was_delivered(self, name: str, deliveries: int, *, by: str = "") -> None:
        """Have a message look as if workers had died with it this many times."""
        transport = self.transports[by] if by else self.transport
        for stored in transport.driver._messages.values():  # type: ignore[attr-defined]
            if name.encode() in stored.outgoing.body:
                stored.deliveries = deliveries

    @property
    def left(self) -> list[str]:
        return [each.message.name for each in self.transport.peek(1000)]


@contextmanager
def running(worker: Worker) -> Iterator[None]:
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(DEADLINE)
    assert not thread.is_alive()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.002)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture(name="make_rig")
def _make_rig() -> type[Rig]:
    return Rig


@pytest.fixture(name="running")
def _running() -> Callable[[Worker], object]:
    return running


@pytest.fixture(name="eventually")
def _eventually() -> Callable[[Callable[[], object]], None]:
    return eventually
