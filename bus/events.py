"""What happens in a worker, told to whoever listens: limits, progress bars, metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from bus.envelope import Envelope

logger = logging.getLogger(__name__)

Outcome = Literal["handled", "retried", "failed", "parked", "postponed", "discarded"]


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """The worker is about to ask its receivers."""

    receivers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerIdle:
    """Nothing was there, nothing is being handled; the worker is about to sleep."""


@dataclass(frozen=True, slots=True)
class WorkerStopped:
    """The worker has finished what it had begun and closed its receivers."""


class MessageReceived(msgspec.Struct, frozen=True):
    """A message was begun. ``envelope`` bears its ReceivedStamp."""

    envelope: Envelope


class MessageSettled(msgspec.Struct, frozen=True):
    """An attempt at a message ended, and this became of it."""

    envelope: Envelope
    transport_name: str
    outcome: Outcome
    error: BaseException | None = None


Event = WorkerStarted | WorkerIdle | WorkerStopped | MessageReceived | MessageSettled
E_ = TypeVar("E_", bound=Event)


class Events:
    """Hands events to listeners, in the order in which they registered; nothing depends on that order."""

    def __init__(self) -> None:
        self._listeners: dict[type, tuple[Callable[..., None], ...]] = {}

    def on(self, event_type: type[E_], listener: Callable[[E_], None]) -> None:
        """Call ``listener`` with every event of this type, in the thread where it happens."""
        self._listeners[event_type] = (*self._listeners.get(event_type, ()), listener)

    def off(self, event_type: type[E_], listener: Callable[[E_], None]) -> None:
        """Stop calling ``listener`` with events of this type. Harmless when it is not registered."""
        left = tuple(each for each in self._listeners.get(event_type, ()) if each != listener)
        self._listeners[event_type] = left

    def emit(self, event: Event) -> None:
        """Tell an event. A listener that raises is logged: observing never changes what happens to a message."""
        for listener in self._listeners.get(type(event), ()):
            try:
                listener(event)
            except Exception:
                logger.exception("A listener of %s failed", type(event).__name__)
