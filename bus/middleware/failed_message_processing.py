"""Lets a message that is consumed from a failure transport look as if it came from where it failed."""

from __future__ import annotations

from bus.envelope import Envelope
from bus.middleware.base import CallNext
from bus.stamps import ReceivedStamp, SentToFailureTransportStamp


class FailedMessageProcessingMiddleware:
    """Replaces the transport's name for the handlers, so that their ``from_transport`` still matches."""

    only_received = True

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Show the original receiver of a message that was given up."""
        sent_to_failure = envelope.last(SentToFailureTransportStamp)
        if sent_to_failure is not None and envelope.last(ReceivedStamp) is not None:
            envelope = envelope.with_(ReceivedStamp(sent_to_failure.original_receiver_name))
        return call_next(envelope)
