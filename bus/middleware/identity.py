"""Gives a message its id, and ties it to the message whose handler dispatched it."""

from __future__ import annotations

from bus.envelope import Envelope
from bus.middleware.base import CallNext
from bus.stamps import CausationStamp, CorrelationStamp, MessageIdStamp
from bus.unit import current_unit


class IdentityMiddleware:
    """Stamps id, causation and correlation. An id that is there already is kept: the same message is sent again.

    A message that nothing caused is the root of its conversation; its correlation id is its own id, unstamped.
    """

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Give the message an id unless it has one."""
        if envelope.last(MessageIdStamp) is None:
            envelope = envelope.with_(MessageIdStamp())
            unit = current_unit.get()
            parent = unit.envelope if unit is not None else None
            if parent is not None:
                envelope = _caused_by(parent, envelope)
        return call_next(envelope)


def _caused_by(parent: Envelope, envelope: Envelope) -> Envelope:
    cause = parent.last(MessageIdStamp)
    if cause is None:
        return envelope
    if envelope.last(CorrelationStamp) is None:
        envelope = envelope.with_(parent.last(CorrelationStamp) or CorrelationStamp(cause.id))
    return envelope.with_(CausationStamp(cause.id))
