"""Carries an outcome out: what the stack decided about a received message becomes sends and settlements.

The order is what keeps messages: a given-up message is settled only when another store has it, and a message that
nothing can be done with now goes back into its own transport.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TypeAlias, cast, get_args

from bus import failpoints
from bus.envelope import Envelope
from bus.error_details import application_traceback, first_cause
from bus.errors import (
    AccessDeniedError,
    DecodingError,
    HandlerFailedError,
    SendRefused,
    TransportError,
    UnrecoverableError,
    describe,
)
from bus.events import Events, MessageSettled, Outcome
from bus.log_context import log_context, message_id_of
from bus.messages import UndecodableMessage
from bus.outcome_stamps import (
    attempted,
    given_up,
    parked,
    postponed,
    retry_count,
    to_retry,
    waits_for_failure_transport,
)
from bus.stamps import (
    ClaimStamp,
    FailureDecisionStamp,
    ParkDecisionStamp,
    PostponeDecisionStamp,
    PostponedStamp,
    ReceivedStamp,
    RetryDecisionStamp,
)
from bus.transports.base import Claim
from bus.transports.transport import Transport, undecoded_reason

logger = logging.getLogger(__name__)

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

_FIRST_POSTPONEMENT: Final = 1_000  # milliseconds, doubling
_LONGEST_POSTPONEMENT: Final = 30_000
_Decision: TypeAlias = RetryDecisionStamp | PostponeDecisionStamp | FailureDecisionStamp | ParkDecisionStamp
_DECISIONS: Final = frozenset(get_args(_Decision))


class Settler:
    """Settles received messages. Thread-safe; callable in a greenlet on an event loop.

    ``failure_transports`` maps a transport to the one that keeps what it gives up, or None.
    """

    def __init__(
        self, transports: Mapping[str, Transport], failure_transports: Mapping[str, str | None], events: Events
    ) -> None:
        self._transports = transports
        self._failure_transports = failure_transports
        self._are_failure_transports = {name for name in failure_transports.values() if name is not None}
        self._events = events

    def refuse(self, received: Envelope) -> bool:
        """Settle a message that must not be handled; False: it may be handled.

        Those are bytes that cannot be decoded, a message that was delivered too often without ever being settled, and
        one that was given up before while its failure transport was down.
        """
        transport, claim = self._held_by(received)
        if claim.deliveries > transport.max_deliveries:
            self.conclude(received, UnrecoverableError(undecoded_reason(claim.deliveries)))
        elif isinstance(received.message, UndecodableMessage):
            self.conclude(received, DecodingError(received.message.reason))
        elif waits_for_failure_transport(received, transport.name):
            target = self._failure_transports.get(transport.name)
            if target is None:
                return False
            outcome = self._store(transport, claim, received, target)
            self._events.emit(MessageSettled(received, transport.name, outcome))
        else:
            return False
        return True

    def conclude(self, received: Envelope, result: Envelope | BaseException) -> None:
        """Carry out what the stack decided: handled, try again, store in the failure transport, or park.

        ``result`` is what the stack returned or raised. What it raised goes to the failure transport, is parked where
        it was read from one, or, where there is none, is logged whole and discarded. Never raises; the second
        conclusion of a message does nothing, and in a forked child the first one neither.
        """
        transport, claim = self._held_by(received)
        if claim.settled:
            return
        error: BaseException | None
        try:
            outcome, error = self._carry_out(transport, claim, received, result)
        except Exception as unexpected:  # noqa: BLE001 - logged; whatever it is, the message is put back
            outcome, error = _postpone(transport, received, unexpected), unexpected
        reported = received if isinstance(result, BaseException) else result
        self._events.emit(MessageSettled(reported, transport.name, outcome, error))

    def _carry_out(
        self, transport: Transport, claim: Claim, received: Envelope, result: Envelope | BaseException
    ) -> tuple[Outcome, BaseException | None]:
        if isinstance(result, BaseException):
            last = result.envelope if isinstance(result, HandlerFailedError) else received
            return self._give_up(transport, claim, attempted(received, last), result), result
        decision = _decision_of(result)
        if decision is None:
            transport.ack(received)
            return "handled", None
        envelope = attempted(received, result)
        if isinstance(decision, RetryDecisionStamp):
            if claim.in_place is not None and not claim.in_place.has_time_for(decision.delay):
                return self._give_up(transport, claim, envelope, decision.error), decision.error
            return _retry(transport, envelope, decision), decision.error
        if isinstance(decision, PostponeDecisionStamp):
            return _wait_for_the_other(transport, envelope, decision.error), decision.error
        if isinstance(decision, ParkDecisionStamp):
            return _park(transport, envelope, decision.error), decision.error
        failed = given_up(envelope, transport.name, claim.origin, decision.error, _now(transport))
        return self._store(transport, claim, failed, decision.transport_name, decision.error), decision.error

    def _give_up(self, transport: Transport, claim: Claim, envelope: Envelope, error: BaseException) -> Outcome:
        if transport.name in self._are_failure_transports:
            return _park(transport, envelope, error)
        target = self._failure_transports.get(transport.name)
        if target is None:
            return _discard(transport, envelope, error)
        failed = given_up(envelope, transport.name, claim.origin, error, _now(transport))
        return self._store(transport, claim, failed, target, error)

    def _store(
        self,
        transport: Transport,
        claim: Claim,
        failed: Envelope,
        target_name: str,
        error: BaseException | None = None,
    ) -> Outcome:
        """Store a given-up message in its failure transport, and only then settle it."""
        if not claim.withdrawn:
            try:
                target = self._transports[target_name]
                failpoints.reach("before_failure")
                target.send_all((target.encode_received(failed.without(PostponedStamp), transport),))
                failpoints.reach("after_failure")
            except Exception as problem:  # noqa: BLE001 - logged; the message goes back and is stored later
                return _postpone(transport, failed, problem, target_name)
        # Where the claim was withdrawn, somebody else has the message and will store it.
        transport.ack(failed)
        logger.error(
            'Message %s of "%s" failed for good and goes to "%s": %s',
            message_id_of(failed),
            transport.name,
            target_name,
            _reason(error) if error is not None else "it was given up before and could not be stored",
            exc_info=_exc_info(error),
            extra=log_context(failed, transport.name),
        )
        return "failed"

    def _held_by(self, received: Envelope) -> tuple[Transport, Claim]:
        name: str | None = None
        claim: Claim | None = None
        for stamp in received.stamps:
            kind = type(stamp)
            if kind is ClaimStamp:
                claim = stamp.claim  # type: ignore[attr-defined]
            elif kind is ReceivedStamp and name is None:
                # The first one: a message from a failure transport may bear its original receiver behind it.
                name = stamp.transport_name  # type: ignore[attr-defined]
        assert name is not None
        assert claim is not None
        return self._transports[name], claim


def _decision_of(result: Envelope) -> _Decision | None:
    for stamp in reversed(result.stamps):
        if type(stamp) in _DECISIONS:
            return cast("_Decision", stamp)
    return None


def _retry(transport: Transport, envelope: Envelope, decision: RetryDecisionStamp) -> Outcome:
    transport.requeue(to_retry(envelope, decision.error, decision.delay, _now(transport)), decision.delay)
    logger.warning(
        'Message %s of "%s" failed and is tried again in %s ms (retry %s): %s',
        message_id_of(envelope),
        transport.name,
        decision.delay,
        retry_count(envelope) + 1,
        _reason(decision.error),
        extra=log_context(envelope, transport.name),
    )
    return "retried"


def _park(transport: Transport, envelope: Envelope, error: BaseException) -> Outcome:
    transport.park(parked(envelope, error))
    logger.error(
        'Message %s failed again in the failure transport "%s" and stays there: %s',
        message_id_of(envelope),
        transport.name,
        _reason(error),
        exc_info=_exc_info(error),
        extra=log_context(envelope, transport.name),
    )
    return "parked"


def _postpone(transport: Transport, envelope: Envelope, problem: Exception, target_name: str | None = None) -> Outcome:
    """Put a message back for a while; this is no attempt. With ``target_name`` it waits for that transport only."""
    delay = _put_back(transport, postponed(envelope, transport.name, is_given_up=target_name is not None))
    needs_a_person = isinstance(problem, SendRefused | AccessDeniedError)
    logger.log(
        logging.ERROR if needs_a_person else logging.WARNING,
        'Message %s of "%s" is put back for %s ms, because %s failed: %s',
        message_id_of(envelope),
        transport.name,
        delay,
        f'storing it in "{target_name}"' if target_name is not None else "settling it",
        describe(problem),
        exc_info=None if isinstance(problem, TransportError) else problem,
        extra=log_context(envelope, transport.name),
    )
    return "postponed"


def _wait_for_the_other(transport: Transport, envelope: Envelope, error: BaseException) -> Outcome:
    """Put a message back until the call that has claimed it is done; this is no attempt."""
    delay = _put_back(transport, postponed(envelope, transport.name, is_given_up=False))
    logger.info(
        'Message %s of "%s" is put back for %s ms: %s',
        message_id_of(envelope),
        transport.name,
        delay,
        _reason(error),
        extra=log_context(envelope, transport.name),
    )
    return "postponed"


def _put_back(transport: Transport, again: Envelope) -> int:
    """Requeue a postponed message and return after how many milliseconds it comes back."""
    count = cast("PostponedStamp", again.last(PostponedStamp)).count
    # The count comes from the wire and may be anything.
    delay = min(_FIRST_POSTPONEMENT << min(count - 1, 16), _LONGEST_POSTPONEMENT)
    transport.requeue(again, delay)
    return delay


def _discard(transport: Transport, envelope: Envelope, error: BaseException) -> Outcome:
    claim_stamp = cast("ClaimStamp", envelope.last(ClaimStamp))
    kind, body = _readable(claim_stamp.body)
    logger.error(
        'Message %s of "%s" is discarded, for that transport has no failure transport: %s; headers %s; body as %s: %s',
        message_id_of(envelope),
        transport.name,
        _reason(error),
        json.dumps(dict(claim_stamp.headers)),
        kind,
        body,
        exc_info=_exc_info(error),
        extra=log_context(envelope, transport.name),
    )
    transport.discard(envelope)
    return "discarded"


def _readable(body: bytes) -> tuple[str, str]:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    # What would break a log line is written as base64 too, so that the bytes can be had back from the log.
    return ("text", text) if text.isprintable() else ("base64", base64.b64encode(body).decode("ascii"))


def _now(transport: Transport) -> datetime:
    return datetime.fromtimestamp(transport.clock.now(), UTC)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, HandlerFailedError) else describe(error)


def _exc_info(error: BaseException | None) -> _ExcInfo | None:
    """Return what a log line shows the traceback of: what really failed, where it was raised at all."""
    cause = first_cause(error) if error is not None else None
    if cause is None or cause.__traceback__ is None:
        return None
    return type(cause), cause, application_traceback(cause)
