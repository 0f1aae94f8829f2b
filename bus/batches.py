"""Collects messages for batch handlers in a worker.

The stack of a message that waits for its batch runs in a greenlet on the event loop, and waits there: no thread does,
and middleware around the handler sees one message after all. When the batch is due, one of its stacks makes the call;
then each goes on with the outcome of its own message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CoroutineType, TracebackType
from typing import Any, Protocol

from bus import aio
from bus.envelope import Envelope
from bus.errors import BatchFailedError
from bus.handlers import BatchOptions, HandlerDescriptor, refuse_coroutine
from bus.stamps import ConsumedByWorkerStamp
from bus.unit import Unit, current_unit


class Seat(Protocol):
    """The place of a message among those that its worker handles at once. Called on the loop.

    Attributes:
        batches: collects for this worker.
        may_leave: False: this message must keep its place, and be handled alone.
    """

    batches: Batches

    @property
    def may_leave(self) -> bool: ...  # noqa: D102 - said above

    def leave(self) -> None:
        """Give the place to another message."""

    def ask_back(self, resume: Callable[[], object]) -> None:
        """Have ``resume`` called, from any thread, once there is a place for this message again."""


# The seat of the message that a stack on the loop handles.
current_seat: ContextVar[Seat | None] = ContextVar("bus_current_seat", default=None)


@dataclass(slots=True, eq=False)
class _Member:
    """One message of a batch. ``turn`` is done when its stack may go on."""

    envelope: Envelope
    seat: Seat
    turn: asyncio.Future[None]
    result: Any = None
    error: BaseException | None = None
    traceback: TracebackType | None = None


@dataclass(slots=True, eq=False)
class _Batch:
    handler: HandlerDescriptor
    options: BatchOptions
    members: list[_Member] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


def call_batch_handler(handler: HandlerDescriptor, options: BatchOptions, envelope: Envelope) -> Any:
    """Have a batch handler handle a message: in a worker together with others, elsewhere alone. Waits until it did.

    Raises what the handler raised for this message.
    """
    seat = current_seat.get()
    if seat is not None and aio.in_greenlet() and envelope.last(ConsumedByWorkerStamp) is not None and seat.may_leave:
        return seat.batches.join(handler, options, envelope, seat)
    try:
        return _call(handler, options, [envelope])
    except BatchFailedError as error:
        own = error.by_position([envelope.message])[0]
        if own is None:
            return None
        raise own from None


class Batches:
    """The batches of one worker. Its event loop collects and calls; ``flush`` and ``close`` are for any thread."""

    def __init__(self) -> None:
        self._closed = False
        self._open: dict[str, _Batch] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def join(self, handler: HandlerDescriptor, options: BatchOptions, envelope: Envelope, seat: Seat) -> Any:
        """Wait with a message until its batch was handled; return the handler's result, or raise its error."""
        self._loop = loop = asyncio.get_running_loop()
        member = _Member(envelope, seat, loop.create_future())
        batch = self._open.get(handler.name)
        if batch is None:
            batch = self._open[handler.name] = _Batch(handler, options)
            batch.timer = loop.call_later(options.wait, self._begin, batch)
        batch.members.append(member)
        # Only now: whoever finds nothing left to do has to find this batch.
        seat.leave()
        if len(batch.members) >= options.size or self._closed:
            self._begin(batch)
        aio.wait(member.turn)
        if member is batch.members[0]:
            _handle(batch)
            for follower in batch.members[1:]:
                self._call_back(follower)
        if member.error is not None:
            # Raised in several stacks: each begins with the trace of the call, not with that of the stack before it.
            raise member.error.with_traceback(member.traceback)
        return member.result

    def flush(self) -> None:
        """Have every batch handled as it is. Returns at once; from any thread."""
        if self._open and self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_all)

    def close(self) -> None:
        """Flush, and collect no further. Idempotent; from any thread."""
        self._closed = True
        self.flush()

    def _begin_all(self) -> None:
        for batch in list(self._open.values()):
            self._begin(batch)

    def _begin(self, batch: _Batch) -> None:
        """Have the first message of a batch call the handler when there is a place for it."""
        if self._open.get(batch.handler.name) is batch:
            del self._open[batch.handler.name]
            if batch.timer is not None:
                batch.timer.cancel()
            self._call_back(batch.members[0])

    def _call_back(self, member: _Member) -> None:
        loop, turn = self._loop, member.turn
        assert loop is not None
        member.seat.ask_back(lambda: loop.call_soon_threadsafe(turn.set_result, None))


def _handle(batch: _Batch) -> None:
    """Call the handler with the whole batch, as a unit of its own, and note the outcome of each message.

    What is sent inside leaves when the call succeeded for one message at least.
    """
    members = batch.members
    unit = Unit(members[0].envelope if len(members) == 1 else None)
    token = current_unit.set(unit)
    errors: list[BaseException | None] = [None] * len(members)
    result = None
    try:
        try:
            result = _call(batch.handler, batch.options, [each.envelope for each in members])
        except BatchFailedError as error:
            errors = error.by_position([each.envelope.message for each in members])
        if all(errors):
            unit.fail()
        else:
            unit.succeed()
            if unit.waits:
                unit.finish()
    except BaseException as error:  # noqa: BLE001 - raised again in the stack of each message
        unit.fail()
        errors = [each or error for each in errors]
    finally:
        current_unit.reset(token)
    for member, each in zip(members, errors, strict=True):
        member.result, member.error = result, each
        member.traceback = each.__traceback__ if each is not None else None


def _call(handler: HandlerDescriptor, options: BatchOptions, envelopes: list[Envelope]) -> Any:
    if handler.is_async:
        return aio.wait(options.invoke(envelopes))
    result = aio.blocking(options.invoke, envelopes)
    if type(result) is CoroutineType:
        refuse_coroutine(handler.name, result)
    return result
