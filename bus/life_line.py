"""The life-line between a supervisor and one worker process: a socket pair that both hold open.

Orders go to the worker process, one byte each; end of file is the order to stop, since the supervisor is gone then.
Reports come back, one JSON object per line.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from types import FrameType
from typing import ClassVar, Final

from bus.events import Events, MessageReceived, WorkerIdle, WorkerStarted
from bus.stacks import show_stacks

logger = logging.getLogger(__name__)

# Signals that are meant for the supervisor, and that a terminal sends to every process of a group.
LEFT_TO_THE_SUPERVISOR: Final = (signal.SIGINT, signal.SIGHUP)


class Order(IntEnum):
    """What a supervisor tells a worker process. The numbers are the bytes on the wire; no signal has them."""

    STOP = 100
    LEAVE = 101
    SHOW_STACKS = 102


class Progress(StrEnum):
    """What a worker process says of itself.

    STARTED: it is about to ask its receivers. READY: it has asked them. FINISHED: a limit ended it, and nobody needs to
    take its place. WORN_OUT: it has used up its memory, and another one is to take its place. REFUSED: it cannot start;
    FAILED: it cannot go on; both with the reason. LOOKED: its text is the latest request to stop that is not for it.
    """

    STARTED = "started"
    READY = "ready"
    FINISHED = "finished"
    WORN_OUT = "worn out"
    REFUSED = "refused"
    FAILED = "failed"
    LOOKED = "looked"


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a worker process; with REFUSED and FAILED ``exit_code`` and ``text`` say why."""

    progress: Progress
    exit_code: int = 0
    text: str = ""

    def encode(self) -> bytes:
        """Return the line on the wire."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Report:
        """Read a line from the wire."""
        found = json.loads(line)
        return cls(Progress(found["progress"]), found["exit_code"], found["text"])


class LifeLine:
    """The worker process's end. A process has at most one; make it in the main thread, before anything is imported.

    Until somebody obeys, an order to stop ends the process at once: it has begun nothing. SIGINT and SIGHUP do nothing
    here: they reach the supervisor too, and it decides. ``stop_request`` is the latest request to stop that came before
    the supervisor's first processes; None: this is one of them.
    """

    of_this_process: ClassVar[LifeLine | None] = None

    def __init__(self, fd: int, stop_request: str | None = None) -> None:
        self.stop_request = stop_request
        self._socket = socket.socket(fileno=fd)
        # A process that a handler starts must not keep the supervisor's end from seeing this process die.
        self._socket.set_inheritable(False)
        self._pid = os.getpid()
        self._obey: Callable[[Order, str], None] = _leave_before_anything_began
        self._events = Events()
        self._ready = False
        leave_signals_to_the_supervisor()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_SUPERVISOR)
        LifeLine.of_this_process = self
        threading.Thread(target=self._listen, name="bus-life-line", daemon=True).start()

    def obey_with(self, carry_out: Callable[[Order, str], None]) -> None:
        """Have orders carried out by this function from now on, in the life-line's thread. It is told the reason."""
        self._obey = carry_out

    def accompany(self, events: Events) -> None:
        """Report when the worker that emits these events has started, and when it has asked its receivers."""
        self._events = events
        events.on(WorkerStarted, self._started)
        events.on(WorkerIdle, self._asked)
        events.on(MessageReceived, self._asked)

    def report(self, progress: Progress, text: str = "") -> None:
        """Tell the supervisor. Does nothing in a child that a handler forked."""
        self._say(Report(progress, text=text))

    def report_error(self, exit_code: int, text: str) -> None:
        """Tell the supervisor why this process ends."""
        self._say(Report(Progress.FAILED if self._ready else Progress.REFUSED, exit_code, text))

    def _started(self, event: WorkerStarted) -> None:
        self.report(Progress.STARTED)

    def _asked(self, event: WorkerIdle | MessageReceived) -> None:
        self._events.off(WorkerIdle, self._asked)
        self._events.off(MessageReceived, self._asked)
        self._ready = True
        self.report(Progress.READY)

    def _say(self, report: Report) -> None:
        if os.getpid() != self._pid:
            return
        with suppress(OSError):  # the supervisor is gone; the thread that listens sees it as well
            self._socket.sendall(report.encode())

    def _listen(self) -> None:
        while True:
            try:
                orders = self._socket.recv(64)
            except OSError:
                orders = b""
            for number in orders:
                order = Order(number)
                if order is Order.SHOW_STACKS:
                    # Elsewhere, since this thread must not wait for whoever reads stderr.
                    threading.Thread(target=show_stacks, name="bus-stacks", daemon=True).start()
                else:
                    self._obey(order, "the supervisor asks for it")
            if not orders:
                self._obey(Order.STOP, "the supervisor is gone")
                return


def leave_signals_to_the_supervisor() -> None:
    """Do nothing on SIGINT and SIGHUP. What a handler starts is not affected, as it would be by ignoring them."""
    for number in LEFT_TO_THE_SUPERVISOR:
        signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def _leave_before_anything_began(order: Order, reason: str) -> None:
    os._exit(0)
