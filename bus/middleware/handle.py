"""Calls the handlers of a message."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from types import CoroutineType
from typing import Any, Final, TypeAlias

from bus import aio, failpoints
from bus.batches import call_batch_handler
from bus.envelope import Envelope
from bus.errors import HandlerFailedError, NoHandlerError
from bus.forking import this_process
from bus.handler_arguments import check_given
from bus.handlers import HandlerDescriptor, HandlersLocator, refuse_coroutine
from bus.middleware.base import CallNext, HandlerCall, HandlerMiddleware, compose_handler
from bus.stamps import HandledStamp, HandlerArgumentsStamp, ReceivedStamp
from bus.unit import Unit, current_unit

_Waiting: TypeAlias = tuple[str, Any, Unit]  # the handler's name, its result, and what it still waits for
_WAITS: Final = object()

logger = logging.getLogger(__name__)


class HandleMiddleware:
    """Runs every handler of a message, by priority, even when one of them fails.

    Each success leaves a HandledStamp, so that a retry runs only those that have not succeeded. Failures are raised
    together. Each call is a unit: what was sent inside leaves when the call succeeded.
    """

    def __init__(
        self,
        locator: HandlersLocator,
        middleware: Sequence[HandlerMiddleware] = (),
        *,
        allow_no_handlers: bool = False,
    ) -> None:
        self.middleware = tuple(middleware)
        self._locator = locator
        self._call = compose_handler(middleware, call_handler)
        self._allow_no_handlers = allow_no_handlers

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Handle the message.

        Raises:
            NoHandlerError: nobody handles it, and the bus does not allow that.
            HandlerFailedError: one or more handlers failed.
        """
        handlers = self._locator.of_type(type(envelope.message))
        handled = _done_with(envelope, handlers)
        taken = False
        errors: dict[str, BaseException] = {}
        waiting: list[_Waiting] = []
        given = envelope
        for handler in handlers:
            if not handler.takes(given):
                continue
            taken = True
            if handler.name in handled:
                continue
            try:
                result = self._run(given, handler, waiting)
            except Exception as error:  # noqa: BLE001 - the other handlers still run; all errors are raised together
                errors[handler.name] = error
            except BaseException as error:
                # In a worker, sys.exit() in a handler ends that attempt and not the worker.
                if given.last(ReceivedStamp) is None:
                    _give_up(waiting)
                    raise
                errors[handler.name] = error
            else:
                if result is not _WAITS:
                    envelope = envelope.with_(HandledStamp(result, handler.name))
        if waiting:
            envelope = _finish(waiting, envelope, errors)
        if errors:
            raise HandlerFailedError(envelope, errors)
        if not taken and not self._allow_no_handlers:
            raise NoHandlerError(
                f'No handler takes the message "{type(given.message).__module__}.{type(given.message).__qualname__}"; '
                "is its module listed under imports?"
            )
        return call_next(envelope)

    def _run(self, envelope: Envelope, handler: HandlerDescriptor, waiting: list[_Waiting]) -> Any:
        unit = Unit(envelope, current_unit.get())
        token = current_unit.set(unit)
        try:
            result = self._call(HandlerCall(envelope, handler, unit))
            failpoints.reach("handler_done")
            unit.succeed()
        except BaseException:
            unit.fail()
            raise
        finally:
            current_unit.reset(token)
        if unit.waits:
            waiting.append((handler.name, result, unit))
            return _WAITS
        return result


def _finish(waiting: Sequence[_Waiting], envelope: Envelope, errors: dict[str, BaseException]) -> Envelope:
    """Have done what handlers put off until all were through; return the envelope with the stamps of the successes."""
    is_received = envelope.last(ReceivedStamp) is not None
    for position, (name, result, unit) in enumerate(waiting):
        try:
            unit.finish()
        except BaseException as error:
            unit.fail()
            # The others are still finished, and all errors raised together; but an exit ends a program, as above.
            if not isinstance(error, Exception) and not is_received:
                _give_up(waiting[position + 1 :])
                raise
            errors[name] = error
        else:
            envelope = envelope.with_(HandledStamp(result, name))
    return envelope


def _give_up(waiting: Sequence[_Waiting]) -> None:
    for _, _, unit in waiting:
        unit.fail()


def _done_with(envelope: Envelope, handlers: Sequence[HandlerDescriptor]) -> Sequence[str]:
    """Return the names of the handlers that have succeeded before; the message's arguments have to suit the others."""
    names: tuple[str, ...] = ()
    for stamp in envelope.stamps:
        if type(stamp) is HandledStamp:
            names += (stamp.handler_name,)
        elif type(stamp) is HandlerArgumentsStamp:
            check_given(stamp, [each.arguments for each in handlers])
    return names


def call_handler(call: HandlerCall) -> Any:
    """Call the handler itself: the innermost part of the handler stack."""
    if call.handler.batch is not None:
        return call_batch_handler(call.handler, call.handler.batch, call.envelope)
    if call.handler.is_async:
        return aio.wait(call.handler.invoke(call.envelope))
    if aio.in_greenlet():
        return aio.blocking(_invoke, call)
    return _invoke(call)


def _invoke(call: HandlerCall) -> Any:
    forks = this_process.forks
    try:
        result = call.handler.invoke(call.envelope)
    finally:
        if this_process.forks != forks and call.envelope.last(ReceivedStamp) is not None:
            # The handler forked, and this is the child that came back: message, claim and held sends are the parent's.
            logger.error("Handler %s forked and its child returned; the child ends here", call.handler.name)
            os._exit(1)
    if type(result) is CoroutineType:
        refuse_coroutine(call.handler.name, result)
    return result
