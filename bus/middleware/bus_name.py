"""Notes the bus that a message was dispatched on."""

from __future__ import annotations

from bus.envelope import Envelope
from bus.middleware.base import CallNext
from bus.stamps import BusNameStamp


class BusNameMiddleware:
    """Adds a BusNameStamp, so that a worker hands the message to the same bus."""

    def __init__(self, bus_name: str) -> None:
        self._stamp = BusNameStamp(bus_name)

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Stamp the message unless it names a bus."""
        if envelope.last(BusNameStamp) is None:
            envelope = envelope.with_(self._stamp)
        return call_next(envelope)
