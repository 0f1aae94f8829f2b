"""Lets a message wait until the handlers of the current one are through."""

from __future__ import annotations

from collections.abc import Mapping

from bus.envelope import Envelope
from bus.middleware.base import CallNext
from bus.routing import Routing
from bus.stamps import DispatchAfterCurrentBusStamp
from bus.transports.sync import SyncTransport
from bus.transports.transport import Transport
from bus.unit import Unit, current_unit


class AfterCurrentBusMiddleware:
    """Takes the DispatchAfterCurrentBusStamp off, and puts off what would be handled within the running handler.

    What has a transport leaves when its handler succeeded, as every send inside a handler does. What is handled here
    waits until all handlers of the outermost message are through, and their transactions committed. It is part of the
    success of the handler that dispatched it: a handler that fails takes it along, and when it fails itself, its
    handler counts as failed, so that a retry dispatches it again.
    """

    def __init__(self, routing: Routing, transports: Mapping[str, Transport | SyncTransport]) -> None:
        self._routing = routing
        self._transports = transports

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Pass the message on, or put it off."""
        for stamp in envelope.stamps:
            if type(stamp) is DispatchAfterCurrentBusStamp:
                return self._put_off(envelope, call_next)
        return call_next(envelope)

    def _put_off(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        envelope = envelope.without(DispatchAfterCurrentBusStamp)
        unit = current_unit.get()
        if type(unit) is Unit and self._is_handled_here(envelope) and unit.defer(lambda: call_next(envelope)):
            return envelope
        return call_next(envelope)

    def _is_handled_here(self, envelope: Envelope) -> bool:
        return all(isinstance(self._transports.get(name), SyncTransport) for name in self._routing.of(envelope))
