"""What a middleware is: around a message, or around the call of one handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from bus.envelope import Envelope
from bus.handlers import HandlerDescriptor
from bus.unit import Unit

CallNext: TypeAlias = Callable[[Envelope], Envelope]


class Middleware(Protocol):
    """Stands around a message. Called for every dispatch, here and in the worker, from any thread.

    One with a true attribute ``only_received`` is left out of the way of messages that are being dispatched.
    It returns what ``call_next`` returned, or an envelope of its own without calling it. It keeps no thread lock and
    no thread-local across ``call_next``: an async handler may go on in another thread.
    """

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Do something before and after ``call_next(envelope)``."""


@dataclass(slots=True)
class HandlerCall:
    """One handler's call: the message, the handler, and the unit that it belongs to."""

    envelope: Envelope
    handler: HandlerDescriptor
    unit: Unit


CallHandler: TypeAlias = Callable[[HandlerCall], object]


class HandlerMiddleware(Protocol):
    """Stands around the call of one handler; the same rules hold as for Middleware."""

    def __call__(self, call: HandlerCall, call_next: CallHandler) -> object:
        """Do something before and after ``call_next(call)`` and return the handler's result."""


def compose(middleware: Sequence[Middleware], last: CallNext) -> CallNext:
    """Fold middleware around ``last``, the first one outermost. Done once, when a bus is built."""
    chain = last
    for each in reversed(middleware):
        chain = _link(each, chain)
    return chain


def compose_handler(middleware: Sequence[HandlerMiddleware], last: CallHandler) -> CallHandler:
    """Fold handler middleware around ``last``, the first one outermost."""
    chain = last
    for each in reversed(middleware):
        chain = _link_handler(each, chain)
    return chain


def _link(middleware: Middleware, call_next: CallNext) -> CallNext:
    # Python calls a bound method faster than an object with __call__.
    call = middleware if inspect.isroutine(middleware) else middleware.__call__
    return lambda envelope: call(envelope, call_next)


def _link_handler(middleware: HandlerMiddleware, call_next: CallHandler) -> CallHandler:
    handle = middleware if inspect.isroutine(middleware) else middleware.__call__
    return lambda call: handle(call, call_next)
