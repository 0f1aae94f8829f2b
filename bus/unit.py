"""The unit of one handler call: what is sent inside it waits for the handler's success.

The running unit stands in a ContextVar. Tasks inherit it; threads inherit it where they are started with a copied
context (``asyncio.to_thread``, and every thread that this package starts for a handler).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from bus.envelope import Envelope

if TYPE_CHECKING:
    from bus.errors import TransportError
    from bus.transports.base import Outgoing, Sent

current_unit: ContextVar[Unit | SendBatch | None] = ContextVar("bus_current_unit", default=None)


# One lock for all units: it is held for a few instructions, and a lock per call would cost more than it saves.
_lock = threading.Lock()


class Sender(Protocol):
    """Where a unit's messages leave: a transport."""

    name: str

    def send_all(self, batch: Sequence[Outgoing]) -> None:
        """Send encoded messages, confirmed; raise when one of them did not get through."""

    def send_each(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Send encoded messages, confirmed, and return what became of each."""


class Unit:
    """What belongs to one handler's call. ``envelope`` is the message that is being handled."""

    __slots__ = ("_held", "_open", "envelope")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self._held: dict[Sender, list[Outgoing]] | None = None
        self._open = True

    def hold(self, sender: Sender, outgoing: Outgoing) -> bool:
        """Keep a message until the handler has succeeded.

        False when the unit is closed already (a task that outlived its handler): the caller then sends at once.
        """
        with _lock:
            if not self._open:
                return False
            if self._held is None:
                self._held = {}
            self._held.setdefault(sender, []).append(outgoing)
            return True

    def succeed(self) -> None:
        """Send what was held, confirmed, in the order in which it was dispatched per transport.

        Raises what a transport raises; the handler counts as failed then.
        """
        held = self._close()
        if held:
            for sender, batch in held.items():
                sender.send_all(batch)

    def fail(self) -> None:
        """Drop what was held: the handler will run again, and send it again."""
        self._close()

    def _close(self) -> dict[Sender, list[Outgoing]] | None:
        with _lock:
            held, self._held, self._open = self._held, None, False
            return held


class SendBatch:
    """Collects what the messages of one ``dispatch_many`` send. ``position`` is that of the message being dispatched.

    Used by one thread. It stands where a unit stands, and is no handler's: ``envelope`` is None.
    """

    __slots__ = ("_sends", "position")

    envelope = None

    def __init__(self) -> None:
        self.position = 0
        self._sends: dict[Sender, list[tuple[int, Outgoing]]] = {}

    def hold(self, sender: Sender, outgoing: Outgoing) -> bool:
        """Collect a message of the current position."""
        self._sends.setdefault(sender, []).append((self.position, outgoing))
        return True

    def by_sender(self) -> dict[Sender, list[tuple[int, Outgoing]]]:
        """Return what was collected, with the position of the message that it came from."""
        return self._sends
