"""Remembers what is dispatched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bus.envelope import Envelope
from bus.messenger import Messenger
from bus.middleware.base import CallNext
from bus.stamps import ReceivedStamp
from bus.testing.envelopes import Envelopes


class Recorder:
    """Middleware that keeps every dispatched envelope, in the order in which the dispatches began. Thread-safe.

    A dispatch that returned is kept as it came back, with the stamps that say what became of the message; one that
    raised is kept as it was given. What a worker received is not dispatched, and not kept.
    """

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self._lock = threading.Lock()

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Keep the envelope and pass it on."""
        if envelope.last(ReceivedStamp) is not None:
            return call_next(envelope)
        with self._lock:
            place = len(self.envelopes)
            self.envelopes.append(envelope)
        self.envelopes[place] = result = call_next(envelope)
        return result


@contextmanager
def record_dispatches(messenger: Messenger) -> Iterator[Envelopes]:
    """Keep what is dispatched on any bus of a messenger for the length of a ``with`` block.

    For a messenger as it is, with its real transports; a TestMessenger records by itself. What came out of the block
    stays.
    """
    recorder = Recorder()
    stops = [bus.surround(recorder) for bus in messenger.buses.values()]
    try:
        yield Envelopes("dispatched", recorder.envelopes)
    finally:
        for stop in stops:
            stop()
