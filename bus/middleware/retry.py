"""Decides that a received message is tried again, or postponed. It does no I/O: settlement carries the decision out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from bus.envelope import Envelope
from bus.errors import HandlerFailedError
from bus.middleware.base import CallNext
from bus.retry import RetryStrategy, delay_before_retry, is_in_progress_elsewhere
from bus.stamps import PostponeDecisionStamp, ReceivedStamp, RedeliveryStamp, RetryDecisionStamp

logger = logging.getLogger(__name__)


class RetryMiddleware:
    """Turns the failure of a received message into a RetryDecisionStamp while its transport's policy allows.

    Where nothing failed and a handler is in progress elsewhere, it becomes a PostponeDecisionStamp.
    """

    only_received = True

    def __init__(self, strategies: Mapping[str, RetryStrategy], failure_transports: Collection[str]) -> None:
        self._strategies = strategies
        self._failure_transports = failure_transports

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Pass the message on; decide when that fails. A message read from a failure transport is not tried again."""
        try:
            return call_next(envelope)
        except BaseException as error:
            received = envelope.last(ReceivedStamp)
            attempted = error.envelope if isinstance(error, HandlerFailedError) else envelope
            if received is not None and is_in_progress_elsewhere(error):
                return attempted.with_(PostponeDecisionStamp(error))
            if received is None or received.transport_name in self._failure_transports:
                raise
            redelivery = envelope.last(RedeliveryStamp)
            attempt = redelivery.retry_count if redelivery is not None else 0
            delay = self._delay(received.transport_name, error, attempt)
            if delay is None:
                raise
            return attempted.with_(RetryDecisionStamp(delay, error))

    def _delay(self, transport: str, error: BaseException, attempt: int) -> int | None:
        try:
            return delay_before_retry(self._strategies[transport], error, attempt)
        except Exception:
            # Raised, it would hide the error of the handlers, and with it which of them have succeeded.
            logger.exception('The retry strategy of transport "%s" failed; the message is not tried again', transport)
            return None
