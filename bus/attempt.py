"""One attempt at one message: from the claim's begin to what becomes of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bus import failpoints
from bus.clock import Clock
from bus.envelope import Envelope
from bus.events import Events, MessageReceived
from bus.forking import this_process
from bus.lanes import ReceivedMessage
from bus.log_context import log_context, message_id_of
from bus.outcome_stamps import retry_count
from bus.settlement import Settler
from bus.stamps import ConsumedByWorkerStamp
from bus.transports.transport import Transport

logger = logging.getLogger(__name__)

_CONSUMED: Final = ConsumedByWorkerStamp()
_COMES_BACK_AFTER: Final = 1000  # milliseconds


@dataclass(frozen=True, slots=True)
class RunningMessage:
    """A message that has been handled for ``seconds`` and is not finished. ``attempt`` counts its retries."""

    message_id: str
    message_type: str
    transport_name: str
    attempt: int
    seconds: float


class Attempts:
    """Makes attempts and concludes them. Thread-safe; nothing that a handler does comes out of it as an exception."""

    __slots__ = ("_clock", "_dispatch", "_events", "_settler", "_transports")

    def __init__(
        self,
        dispatch: Callable[[Envelope], Envelope],
        settler: Settler,
        events: Events,
        transports: Sequence[Transport],
        clock: Clock,
    ) -> None:
        self._dispatch = dispatch
        self._settler = settler
        self._events = events
        self._transports = transports
        self._clock = clock

    def make(self, message: ReceivedMessage) -> None:
        """Hand a message to the stack and note what came of it in ``message.result``."""
        try:
            if not self._begin(message):
                return
        except Exception as error:  # noqa: BLE001 - logged; no handler has seen the message, so it is no failure of it
            self._put_back(message, error)
            return
        forks = this_process.forks
        try:
            failpoints.reach("handler_start")
            message.result = self._dispatch(message.envelope)
            failpoints.reach("handler_end")
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler ends the attempt, not the worker
            message.result = error
        if this_process.forks != forks:
            # The handler forked, and this is the child that came back: the message is the parent's.
            logger.error("A handler forked and its child returned; the child ends here and settles nothing")
            os._exit(1)

    def conclude(self, message: ReceivedMessage) -> None:
        """Have carried out what the stack decided. Should that fail, the message comes back."""
        if message.result is None:
            return
        try:
            self._settler.conclude(message.envelope, message.result)
        except Exception as error:  # noqa: BLE001 - logged; one message must not end the worker
            self._put_back(message, error)

    def describe(self, message: ReceivedMessage) -> RunningMessage:
        """Say what a message is and how long its attempt has run."""
        kind = type(message.envelope.message)
        return RunningMessage(
            message_id_of(message.envelope),
            f"{kind.__module__}.{kind.__qualname__}",
            self._transports[message.receiver].name,
            retry_count(message.envelope),
            self._clock.monotonic() - message.begun_at if message.begun_at is not None else 0.0,
        )

    def _begin(self, message: ReceivedMessage) -> bool:
        """Begin the claim; False when the message is not to be handled."""
        if not message.claim.begin():
            name = self._transports[message.receiver].name
            logger.info(
                'Message "%s" was taken away by transport "%s" before it began; it is handled elsewhere',
                message_id_of(message.envelope),
                name,
                extra=log_context(message.envelope, name),
            )
            return False
        message.begun_at = self._clock.monotonic()
        message.envelope = message.envelope.with_(_CONSUMED)
        self._events.emit(MessageReceived(message.envelope))
        return not self._settler.refuse(message.envelope)

    def _put_back(self, message: ReceivedMessage, error: Exception) -> None:
        transport = self._transports[message.receiver]
        facts = log_context(message.envelope, transport.name)
        logger.error(
            'Message "%s" from "%s" could not be begun or settled; it comes back in %d ms',
            message_id_of(message.envelope),
            transport.name,
            _COMES_BACK_AFTER,
            exc_info=error,
            extra=facts,
        )
        try:
            transport.requeue(message.envelope, _COMES_BACK_AFTER)
        except Exception:
            logger.exception('Message "%s" stays claimed until this process ends', facts["message_id"], extra=facts)
