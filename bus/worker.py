"""The worker: takes messages from receivers, has them handled, has the outcome carried out."""

from __future__ import annotations

import contextvars
import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bus import aio
from bus.attempt import Attempts, RunningMessage
from bus.batches import Batches, current_seat
from bus.clock import Clock, SystemClock
from bus.envelope import Envelope
from bus.errors import describe
from bus.events import Events, WorkerIdle, WorkerStarted, WorkerStopped
from bus.intake import Intake
from bus.lanes import Lanes, ReceivedMessage
from bus.messages import UndecodableMessage
from bus.seats import WorkerSeat
from bus.settlement import Settler
from bus.transports.transport import Transport
from bus.wakeup import WakeUp
from bus.worker_options import WorkerOptions

__all__ = ["RunningMessage", "Worker", "WorkerOptions"]

logger = logging.getLogger(__name__)

_ANY_NUMBER: Final = sys.maxsize


class Worker:
    """Consumes receivers until it is stopped. It runs once.

    One thread, the caller's of ``run``, fetches. With a concurrency of 1 it also handles; with more, pool threads do,
    each going from message to message without a wake-up. A message with an ``async def`` handler runs in a greenlet on
    the loop of the process.
    """

    def __init__(
        self,
        receivers: Sequence[Transport],
        dispatch: Callable[[Envelope], Envelope],
        settler: Settler,
        events: Events,
        options: WorkerOptions | None = None,
        *,
        is_async: Callable[[Envelope], bool] = lambda envelope: False,
        clock: Clock | None = None,
    ) -> None:
        """Make a worker.

        Args:
            receivers: in order of priority.
            dispatch: the message stack; it returns an envelope that bears the decision, or raises.
            settler: carries decisions out.
            events: told what happens.
            options: how it works.
            is_async: whether a message has a handler that waits on the loop: an ``async def``, or one of batches.
            clock: for tests.
        """
        self.events = events
        self._options = options or WorkerOptions()
        self._has_async_handler = is_async
        self._clock = clock or SystemClock()
        self._wake_up = WakeUp()
        self._lanes = Lanes(len(receivers), self._options.concurrency)
        self._intake = Intake(receivers, self._options, self._clock, self._wake_up.ring, self._lanes.resting)
        self._attempts = Attempts(dispatch, settler, events, receivers, self._clock)
        self._pool: ThreadPoolExecutor | None = None
        self._context = contextvars.Context()
        self._reason = "it was asked to stop"
        self._limit_reached = ""
        self._found_empty = False
        self._found_no_more = False
        self._batches = Batches()
        # What only the thread of ``run`` may handle; the loop may begin it too.
        self._for_this_thread: deque[ReceivedMessage] = deque()

    # --- what others may do with it ---

    def run(self) -> None:
        """Consume until ``stop``, a limit or, with ``stop_when_empty``, until nothing is there. Blocks.

        It returns when what was begun is finished and settled, the rest is given back and the receivers are closed.

        Raises:
            AccessDeniedError: a server refuses the credentials at the first contact.
            ConfigurationError: a receiver cannot be consumed as it is, or another worker of this process reads it.
            Exception: any error of a receiver, with ``fail_fast``.
        """
        names = tuple(each.transport.name for each in self._intake.receivers)
        self._intake.open()
        self._context = contextvars.copy_context()
        if self._options.concurrency > 1:
            self._pool = ThreadPoolExecutor(self._options.concurrency, thread_name_prefix="bus-handler")
        logger.info("Worker started: receivers %s", ", ".join(names))
        self.events.emit(WorkerStarted(names))
        try:
            while not self._lanes.closed:
                self._turn()
        except BaseException as error:
            self._reason = describe(error)
            raise
        finally:
            self._lanes.closed = True
            self._finish()
            self.events.emit(WorkerStopped())
            logger.info("Worker stopped: %s", self._reason)

    def stop(self, reason: str = "it was asked to stop") -> None:
        """Begin no further message and end ``run`` when the running ones are finished.

        From any thread, from a signal handler, before, during or after ``run``; the first reason counts.
        """
        if not self._lanes.closed:
            self._reason = reason
            self._lanes.closed = True
        self._wake_up.ring_from_signal_handler()

    def allow(self, messages: int) -> None:
        """Begin this many messages and no more, then stop. To be called before ``run``."""
        self._lanes.allowance = messages
        self._limit_reached = f"message limit of {messages} reached"

    def running(self) -> list[RunningMessage]:
        """Return the messages that are being handled at this moment. From any thread; takes no lock."""
        return [self._attempts.describe(each) for each in list(self._lanes.running)]

    def give_back(self) -> None:
        """After ``stop``: give back what is not begun, before the running messages are finished.

        From any thread; blocks as long as the servers need. ``run`` does so too, but not while it handles a message.
        """
        self._intake.give_back()

    def give_up(self) -> None:
        """Flush settlements and give every claim back, running ones too, within 5 s, whatever hangs.

        From any thread. Somebody else may begin the running messages at once, so the process has to end right after.
        """
        self._lanes.closed = True
        for each in [*self._lanes.running, *self._lanes.aside]:
            each.claim.rest()
        self._intake.abandon()

    # --- the loop ---

    def _turn(self) -> None:
        """Fetch, start what may start, and sleep when neither brought anything."""
        if self._lanes.resting:
            self._lanes.rouse(self._clock.monotonic())
        fetched = self._fetch()
        if self._start() or fetched:
            self._found_empty = self._found_no_more = False
            return
        self._intake.flush()
        if not self._lanes.running:
            if self._lanes.aside:
                self._flush_batches()
            else:
                self._idle()
        self._wake_up.sleep(self._pause())

    def _pause(self) -> float:
        """Return the seconds for which nothing has to be done, unless somebody wakes this thread."""
        starved = not self._lanes.ready
        pause = self._intake.seconds_until_due(starved=starved) if self._most() else self._options.sleep
        resting = self._lanes.resting
        return min(pause, resting.seconds_until_look(self._clock.monotonic())) if resting else pause

    def _most(self) -> int:
        """Return how many messages may be fetched at all."""
        lanes = self._lanes
        if lanes.suspects:
            # What a suspect kills would take the innocent with it: nothing else is claimed while one is held.
            return 0
        return _ANY_NUMBER if lanes.allowance is None else max(0, lanes.allowance - self._ready_to_begin())

    def _ready_to_begin(self) -> int:
        return self._lanes.waiting - self._lanes.resting.held_in_all

    def _fetch(self) -> bool:
        most = self._most()
        if not most:
            return False
        messages = self._intake.fetch(most, starved=not self._lanes.ready)
        self._lanes.take_in(messages)
        return bool(messages)

    def _start(self) -> bool:
        """Start what may start; with a concurrency of 1 handle one message. True when there was anything."""
        started = False
        while not self._for_this_thread:
            if self._lanes.suspect_is_next:
                # Should it kill this process, then what was handled before it stays handled.
                self._intake.flush()
            message = self._lanes.begin_next(suspects=True)
            if message is None:
                return started
            started = True
            self._place(message)
        self._handle(self._for_this_thread.popleft())
        return True

    def _idle(self) -> None:
        """Nothing is there and nothing is being handled."""
        if self._lanes.allowance == 0:
            self.stop(self._limit_reached)
        elif self._options.stop_when_empty and self._intake.healthy and not self._lanes.resting:
            if self._found_empty:
                self.stop("the receivers are empty")
            # One more look at all of them, now that every settlement took effect.
            self._found_empty = True
            self._intake.make_due()
        else:
            self.events.emit(WorkerIdle())

    def _flush_batches(self) -> None:
        """Nothing is there but what waits for its batch: have it handled, unless one more look brings more."""
        if self._found_no_more:
            self._batches.flush()
        else:
            self._intake.make_due()
        self._found_no_more = not self._found_no_more

    def _finish(self) -> None:
        self._batches.close()
        if self._lanes.running or self._lanes.aside:
            self.give_back()
        while self._lanes.running or self._lanes.aside:
            while (message := self._lanes.begin_next(suspects=False)) is not None:
                self._place(message)
            if self._for_this_thread:
                self._handle(self._for_this_thread.popleft())
            else:
                self._wake_up.sleep(self._options.sleep)
        if self._pool is not None:
            self._pool.shutdown()
        self._intake.close()

    # --- one message ---

    def _place(self, message: ReceivedMessage) -> None:
        """Hand a message to where it is handled."""
        resume, message.resume = message.resume, None
        if resume is not None:
            resume()
        elif self._runs_on_loop(message):
            aio.process_loop().submit(self._handle_on_loop, message)
        elif self._pool is not None:
            self._pool.submit(self._handle_on_pool, message)
        else:
            self._for_this_thread.append(message)

    def _runs_on_loop(self, message: ReceivedMessage) -> bool:
        if message.resume is not None:
            return True
        if isinstance(message.envelope.message, UndecodableMessage):
            return False
        try:
            return self._has_async_handler(message.envelope)
        except Exception:  # noqa: BLE001 - the stack raises it again, and there it is the failure of this message
            return False

    def _handle(self, message: ReceivedMessage) -> None:
        try:
            # A context of its own: what a handler sets in ContextVars ends with its message.
            self._context.copy().run(self._attempts.make, message)
            self._attempts.conclude(message)
        finally:
            self._end(message)

    def _handle_on_pool(self, message: ReceivedMessage) -> None:
        """Handle a message on this pool thread, and then others as long as any may begin here."""
        following: ReceivedMessage | None = message
        while following is not None:
            message = following
            self._handle(message)
            following = self._next_after(message)
            if following is not None and self._runs_on_loop(following):
                self._place(following)
                return

    def _handle_on_loop(self, message: ReceivedMessage) -> None:
        """Handle a message in a greenlet, which has a context of its own, and hand on the next one."""
        window = self._intake.receivers[message.receiver].window
        current_seat.set(WorkerSeat(self._batches, message, self._lanes, window, self._clock, self._move_on))
        self._attempts.make(message)
        self._attempts.conclude(message)
        self._end(message)
        self._move_on(message)

    def _move_on(self, message: ReceivedMessage) -> None:
        """Start what may start now that a message on the loop has given up its place, or wants it back."""
        following = self._next_after(message)
        if following is not None:
            self._place(following)
            if self._for_this_thread:
                self._wake_up.ring()

    def _end(self, message: ReceivedMessage) -> None:
        if message.again_at is not None:
            self._lanes.rest(message)
            self._wake_up.ring()
            return
        self._lanes.end(message)
        seconds = self._clock.monotonic() - message.begun_at if message.begun_at is not None else None
        self._intake.receivers[message.receiver].window.ended(seconds)

    def _next_after(self, message: ReceivedMessage) -> ReceivedMessage | None:
        """Return the message that may begin now that one has ended; wake the thread that fetches if it is needed."""
        following = self._lanes.begin_next(suspects=False)
        if following is None or self._intake.wants_to_fetch(message.receiver):
            self._wake_up.ring()
        return following
