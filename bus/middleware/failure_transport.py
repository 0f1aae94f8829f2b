"""Decides that a received message is given up. It does no I/O: settlement carries the decision out."""

from __future__ import annotations

from collections.abc import Mapping

from bus.envelope import Envelope
from bus.errors import HandlerFailedError
from bus.middleware.base import CallNext
from bus.stamps import FailureDecisionStamp, ParkDecisionStamp, ReceivedStamp


class FailureTransportMiddleware:
    """Turns what is left of a failure into a decision: to the failure transport, or parked where it stands.

    ``failure_transports`` maps a transport to the one that keeps what it gives up, or None.
    """

    only_received = True

    def __init__(self, failure_transports: Mapping[str, str | None]) -> None:
        self._failure_transports = failure_transports
        self._are_failure_transports = {name for name in failure_transports.values() if name is not None}

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Pass the message on; decide when that fails. Without a failure transport the error goes on to the worker."""
        try:
            return call_next(envelope)
        except BaseException as error:
            received = envelope.last(ReceivedStamp)
            if received is None:
                raise
            attempted = error.envelope if isinstance(error, HandlerFailedError) else envelope
            if received.transport_name in self._are_failure_transports:
                return attempted.with_(ParkDecisionStamp(error))
            target = self._failure_transports.get(received.transport_name)
            if target is None:
                raise
            return attempted.with_(FailureDecisionStamp(target, error))
