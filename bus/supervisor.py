"""The supervisor: starts worker processes, replaces those that die, and passes on when to stop."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from bus.children import Child, must_not_be_a_child
from bus.errors import ConfigurationError
from bus.fleet import Fleet
from bus.life_line import Order, Progress
from bus.places import Member
from bus.reload import code_watched

logger = logging.getLogger(__name__)

_SECOND_SIGNAL_AFTER: Final = 1.0  # seconds; a signal to a whole process group often comes twice
_CODE_CHANGED: Final = b"\x00"  # beside the numbers of signals, none of which is 0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


def supervise(
    command: Sequence[str],
    processes: int,
    *,
    shutdown_timeout: float = 25.0,
    time_limit: float | None = None,
    reload: bool = False,
) -> None:
    """Keep a number of worker processes running until a limit is reached or a signal asks to stop. Blocks.

    A process that dies is replaced alone, later each time: after 0.5 s, doubling to 30 s. SIGTERM and SIGINT stop all,
    a second one at least 1 s later does not wait for their handlers; SIGHUP replaces all, one by one; SIGUSR1 shows
    their stacks. To be called in the main thread.

    Args:
        command: the command line of a worker process; options of its life-line are added.
        processes: how many.
        shutdown_timeout: seconds that running handlers get.
        time_limit: seconds after which all are stopped.
        reload: replace all when code below the working directory changes.

    Raises:
        ConfigurationError: not in the main thread, or in a worker process.
        MissingExtraError: ``reload`` needs a library that is not installed.
        WorkerProcessesError: they cannot start, keep dying before they are ready, or did not stop in time.
    """
    must_not_be_a_child()
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("Worker processes can only be supervised from the main thread.")
    if processes < 1:
        raise ConfigurationError(f'"processes" is {processes}; it must be at least 1.')
    with ExitStack() as stack:
        supervisor = stack.enter_context(_Supervisor(command).listening())
        if reload:
            stack.enter_context(code_watched(Path.cwd(), supervisor.code_changed))
        supervisor.run(Fleet(processes, supervisor.start, shutdown_timeout=shutdown_timeout, time_limit=time_limit))


class _Supervisor:
    """Starts the processes of a fleet, and tells it what happens to them and to this one."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._children: dict[int, Child] = {}
        # The latest one that is not for our processes; who replaces a dead one must not take a newer one for that.
        self._stop_request: str | None = None
        self._selector = selectors.DefaultSelector()
        self._receiving, self._sending = socket.socketpair()
        self._receiving.settimeout(0)
        self._sending.settimeout(0)
        self._first_signal: float | None = None

    @contextmanager
    def listening(self) -> Iterator[_Supervisor]:
        """Take the signals of this process for the length of a ``with`` block."""
        replaced_fd = signal.set_wakeup_fd(self._sending.fileno(), warn_on_full_buffer=False)
        replaced = {number: signal.signal(number, _only_wake) for number in _SIGNALS}
        self._selector.register(self._receiving, selectors.EVENT_READ)
        try:
            yield self
        finally:
            for number, handler in replaced.items():
                # None: it was not installed from Python, and cannot be from here.
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            signal.set_wakeup_fd(replaced_fd)
            self._selector.close()
            self._receiving.close()
            self._sending.close()

    def start(self) -> Child:
        """Start a worker process. Raises OSError."""
        command = self._command
        if self._stop_request is not None:
            command = [*command, f"--stop-request={self._stop_request}"]
        child = Child(command)
        self._children[child.pid] = child
        self._selector.register(child.life_line, selectors.EVENT_READ)
        return child

    def run(self, fleet: Fleet) -> None:
        """Do what the fleet decides until it is over.

        Raises:
            WorkerProcessesError: as ``supervise``.
        """
        logger.info("Supervisor started: process %d", os.getpid())
        while True:
            due = fleet.act()
            if fleet.over:
                break
            for key, _ in self._selector.select(due):
                if key.fileobj is self._receiving:
                    self._take_signals(fleet)
            for member in list(fleet.members()):
                self._look_at(member, fleet)
        logger.info("Supervisor stopped")
        if fleet.failure is not None:
            raise fleet.failure

    def code_changed(self) -> None:
        """Have every process replaced. From any thread."""
        with suppress(OSError):
            self._sending.send(_CODE_CHANGED)

    def _look_at(self, member: Member, fleet: Fleet) -> None:
        child = self._children[member.pid]
        # First the end, then the reports: all that a dead process has said is there.
        exit_code = child.exit_code()
        for report in child.reports():
            if report.progress is not Progress.LOOKED:
                fleet.hear(member, report)
            elif self._stop_request is None:
                self._stop_request = report.text
        if child.hung_up or exit_code is not None:
            with suppress(KeyError):
                self._selector.unregister(child.life_line)
        if exit_code is not None:
            child.close()
            del self._children[member.pid]
            fleet.end(member, exit_code)

    def _take_signals(self, fleet: Fleet) -> None:
        seen = set(self._receiving.recv(4096))
        for number in (signal.SIGTERM, signal.SIGINT):
            if number in seen:
                self._stop(number.name, fleet)
        if signal.SIGHUP in seen or _CODE_CHANGED[0] in seen:
            fleet.replace_all()
        if signal.SIGUSR1 in seen:
            for member in fleet.members():
                member.process.send(Order.SHOW_STACKS)

    def _stop(self, name: str, fleet: Fleet) -> None:
        now = time.monotonic()
        if self._first_signal is None:
            self._first_signal = now
            fleet.stop(f"{name} received")
        elif now - self._first_signal >= _SECOND_SIGNAL_AFTER:
            logger.error("A second %s came: the worker processes end at once", name)
            fleet.leave()


def _only_wake(number: int, frame: FrameType | None) -> None:
    """Do nothing: that there is a handler has the number written to the wakeup fd."""
