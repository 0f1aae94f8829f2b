"""SIGTERM, SIGINT and SIGHUP end a worker, in its own time or in ours; SIGUSR1 shows what it does."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol

from bus.attempt import RunningMessage
from bus.events import Events, MessageSettled, WorkerIdle
from bus.life_line import LifeLine, Order, leave_signals_to_the_supervisor
from bus.stacks import show_stacks

logger = logging.getLogger(__name__)

EXIT_GRACE_EXCEEDED: Final = 6

_SHOWING: Final = signal.SIGUSR1
_SECOND_SIGNAL_AFTER: Final = 1.0  # seconds; a signal to a whole process group often comes twice
_LOOK_AGAIN: Final = 0.01  # seconds between two looks at whether a handler changed the signals: a look takes 4 µs
_SEEN_BY_PYTHON: Final = 128  # added to a number that does not come from the wakeup fd; no signal is that high
_ACT_DEADLINE: Final = 1.0  # seconds that the thread waits for a line to be read, or for a server


class Stoppable(Protocol):
    """What signals do with a worker."""

    events: Events

    def stop(self, reason: str) -> None:
        """Begin no further message."""

    def running(self) -> list[RunningMessage]:
        """Return what is being handled."""

    def give_back(self) -> None:
        """Give back what is not begun."""

    def give_up(self) -> None:
        """Flush settlements and give every claim back, within bounded time."""


@contextmanager
def stop_on_signals(
    worker: Stoppable, shutdown_timeout: float = 25.0, life_line: LifeLine | None = None
) -> Iterator[StopWatch]:
    """Stop the worker on SIGTERM, SIGINT or SIGHUP for the length of a ``with`` block; print all stacks on SIGUSR1.

    A thread sees the signal, also while the main thread is inside a C call that has released the interpreter (while one
    holds it, nothing in the process can run). When handlers still run ``shutdown_timeout`` seconds later, or a second
    signal comes at least 1 s after the first, their messages are given back and the process exits with 6.

    With a life-line its orders do the same, and only SIGTERM does beside them: the supervisor gets the other signals
    too. An order and a signal count as one. SIGHUP does nothing where it was ignored before (``nohup``).

    Only in the main thread; elsewhere it says so and does nothing, since Python delivers signals there alone.
    """
    watch = StopWatch(worker, shutdown_timeout, life_line)
    if threading.current_thread() is not threading.main_thread():
        logger.info("Signals do not stop this worker: it is not in the main thread. Its stop() does.")
        yield watch
        return
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()


class StopWatch:
    """Signal handlers, and the thread that acts on what they and the life-line see.

    ``stopping`` tells whether the worker was asked to stop from outside.
    """

    def __init__(self, worker: Stoppable, shutdown_timeout: float, life_line: LifeLine | None) -> None:
        self.stopping = False
        self._worker = worker
        self._shutdown_timeout = shutdown_timeout
        self._life_line = life_line
        self._stop_signals = _stop_signals(supervised=life_line is not None)
        self._watched = (*self._stop_signals, _SHOWING)
        self._asked_because = ""
        self._receiving: socket.socket
        self._sending: socket.socket
        # Made once: a bound method is a new object each time, and it is compared by identity.
        self._handler = self._on_signal
        self._replaced: dict[int, Any] = {}
        self._replaced_fd = -1
        self._next_look = 0.0
        self._main_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="bus-signals", daemon=True)

    def begin(self) -> None:
        """Take the signals and the orders."""
        self._receiving, self._sending = socket.socketpair()
        self._sending.settimeout(0)
        self._replaced_fd = signal.set_wakeup_fd(self._sending.fileno(), warn_on_full_buffer=False)
        self._replaced = {number: signal.signal(number, self._handler) for number in self._watched}
        self._worker.events.on(MessageSettled, self._hold_on)
        self._worker.events.on(WorkerIdle, self._hold_on)
        _watches.add(self)
        self._thread.start()
        if self._life_line is not None:
            self._life_line.obey_with(self._on_order)

    def restore(self) -> None:
        """Put back the signal handlers that were there before."""
        for number, replaced in self._replaced.items():
            # None: it was not installed from Python, and cannot be from here.
            signal.signal(number, replaced if replaced is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._replaced_fd)

    def end(self) -> None:
        """Leave them to whoever had them before."""
        if self._life_line is not None:
            self._life_line.obey_with(_nothing_is_left_to_stop)
        _watches.discard(self)
        self._worker.events.off(MessageSettled, self._hold_on)
        self._worker.events.off(WorkerIdle, self._hold_on)
        self.restore()
        self._sending.close()
        self._thread.join()
        self._receiving.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # The thread has usually read the number from the wakeup fd by now; this serves when a handler took that away.
        with suppress(OSError):
            self._sending.send(bytes((number + _SEEN_BY_PYTHON,)))

    def _on_order(self, order: Order, reason: str) -> None:
        self._asked_because = reason
        with suppress(OSError):
            self._sending.send(bytes((order,)))

    def _hold_on(self, event: MessageSettled | WorkerIdle) -> None:
        """Put our signal handlers back if a message's handler, such as one with an event loop, replaced them."""
        if threading.get_ident() != self._main_thread:
            return
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_AGAIN
        signal.set_wakeup_fd(self._sending.fileno(), warn_on_full_buffer=False)
        for number in self._watched:
            if signal.getsignal(number) is not self._handler:
                signal.signal(number, self._handler)
        if self._life_line is not None:
            leave_signals_to_the_supervisor()

    def _run(self) -> None:
        ends: float | None = None  # when the grace is over
        first: float | None = None  # when the first signal came
        while True:
            wait = None if ends is None else max(0.0, ends - time.monotonic())
            readable, _, _ = select.select((self._receiving,), (), (), wait)
            now = time.monotonic()
            if not readable:
                self._leave(f"handlers are still running after {self._shutdown_timeout:g} s")
            seen = self._receiving.recv(4096)
            if not seen:
                return
            if _SHOWING in seen:
                _bounded(show_stacks)
            if Order.LEAVE in seen:
                self._leave(self._asked_because)
            names = [signal.Signals(number % _SEEN_BY_PYTHON).name for number in seen if self._stops(number)]
            if not names and Order.STOP not in seen:
                continue
            if ends is None:
                ends = now + self._shutdown_timeout
                self._stop(f"{names[0]} received" if names else self._asked_because)
            elif first is not None and names and now - first >= _SECOND_SIGNAL_AFTER and _is_fresh(seen):
                self._leave(f"a second {names[0]} came")
            if names and first is None:
                first = now

    def _stops(self, number: int) -> bool:
        return number % _SEEN_BY_PYTHON in self._stop_signals

    def _stop(self, reason: str) -> None:
        self.stopping = True
        self._worker.stop(reason)
        _bounded(partial(_announce, reason))
        _bounded(self._worker.give_back)

    def _leave(self, reason: str) -> None:
        """Name what is running, give its claims up and end the process. Never returns."""
        _bounded(partial(_report, reason, self._worker.running()))
        self._worker.give_up()
        os._exit(EXIT_GRACE_EXCEEDED)


_watches: set[StopWatch] = set()


def _leave_signals_to_the_parent() -> None:
    """In a child that a handler forked: a signal to it is not one to the worker, with which it shares the wakeup fd."""
    for watch in _watches:
        watch.restore()
    _watches.clear()


os.register_at_fork(after_in_child=_leave_signals_to_the_parent)


def _stop_signals(*, supervised: bool) -> tuple[signal.Signals, ...]:
    if supervised:
        return (signal.SIGTERM,)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return (signal.SIGTERM, signal.SIGINT)


def _is_fresh(seen: bytes) -> bool:
    """Tell whether the wakeup fd saw it: what only Python saw may be the first signal, late after a long C call."""
    return any(number < _SEEN_BY_PYTHON for number in seen)


def _nothing_is_left_to_stop(order: Order, reason: str) -> None:
    pass


def _announce(reason: str) -> None:
    logger.info("%s: finishing what is being handled; a second signal ends it at once", reason[0].upper() + reason[1:])


def _report(reason: str, running: Sequence[RunningMessage]) -> None:
    logger.error("The worker ends now: %s; %d messages are given back", reason, len(running))
    for each in running:
        logger.error(
            'Message "%s" (%s) from "%s" has been handled for %.1f s and is not finished',
            each.message_id,
            each.message_type,
            each.transport_name,
            each.seconds,
            extra={"message_id": each.message_id, "transport": each.transport_name, "attempt": each.attempt},
        )
    sys.stdout.flush()
    sys.stderr.flush()


def _bounded(act: Callable[[], None]) -> None:
    """Do something and wait for it, but not for ever: a handler may hold the lock of a stream, a server may hang."""
    thread = threading.Thread(target=act, name="bus-signals-act", daemon=True)
    thread.start()
    thread.join(_ACT_DEADLINE)
