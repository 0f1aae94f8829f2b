"""What a message bears after an attempt: the stamps of a retry, a postponement, of being given up or parked."""

from __future__ import annotations

from datetime import datetime

from bus.envelope import Envelope
from bus.error_details import with_error
from bus.stamps import (
    ClaimStamp,
    DelayStamp,
    HandledStamp,
    OriginStamp,
    PostponedStamp,
    RedeliveryStamp,
    SentToFailureTransportStamp,
)


def attempted(received: Envelope, result: Envelope) -> Envelope:
    """Return what was received with the stamps of its attempt; a stack that made its own envelope loses nothing."""
    if result.last(ClaimStamp) is received.last(ClaimStamp):
        return Envelope(received.message, result.stamps)
    return received.with_(*result.all(HandledStamp))


def to_retry(envelope: Envelope, error: BaseException, delay_ms: int, now: datetime) -> Envelope:
    """Return the message as it is tried again: one more retry, its error, no postponements."""
    again = with_error(envelope, error).without(PostponedStamp)
    return again.with_(DelayStamp(delay_ms), RedeliveryStamp(retry_count(envelope) + 1, now))


def given_up(envelope: Envelope, receiver: str, origin: str, error: BaseException, now: datetime) -> Envelope:
    """Return the message as a failure transport stores it. The origin of an earlier failure stays."""
    failed = with_error(envelope, error).with_(SentToFailureTransportStamp(receiver))
    if failed.last(OriginStamp) is None:
        failed = failed.with_(OriginStamp(origin))
    # As Symfony does: the count of retries starts again there, and there is no delay.
    return failed.with_(DelayStamp(0), RedeliveryStamp(0, now))


def parked(envelope: Envelope, error: BaseException) -> Envelope:
    """Return the message as it stays in the failure transport where it failed again."""
    return with_error(envelope, error).without(PostponedStamp)


def postponed(envelope: Envelope, receiver: str, *, is_given_up: bool) -> Envelope:
    """Return the message as it is put back into ``receiver`` without an attempt.

    Only one that ``receiver`` gives up keeps the mark of it: it waits for its failure transport. In a failure
    transport the mark tells where a message came from, and stays.
    """
    last = envelope.last(PostponedStamp)
    count = max(0, last.count) + 1 if last is not None else 1
    mark = envelope.last(SentToFailureTransportStamp)
    if not is_given_up and mark is not None and mark.original_receiver_name == receiver:
        envelope = envelope.without(SentToFailureTransportStamp)
    return envelope.without(PostponedStamp).with_(PostponedStamp(count))


def waits_for_failure_transport(envelope: Envelope, receiver: str) -> bool:
    """Tell whether ``receiver`` has given the message up before and could not have it stored."""
    if envelope.last(PostponedStamp) is None:
        return False
    mark = envelope.last(SentToFailureTransportStamp)
    return mark is not None and mark.original_receiver_name == receiver


def retry_count(envelope: Envelope) -> int:
    """Return how often the message was tried again."""
    redelivery = envelope.last(RedeliveryStamp)
    return max(0, redelivery.retry_count) if redelivery is not None else 0
