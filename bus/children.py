"""Worker processes as their supervisor holds them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bus.errors import ConfigurationError, describe
from bus.life_line import LEFT_TO_THE_SUPERVISOR, LifeLine, Order, Report
from bus.limits import Limits
from bus.worker_options import WorkerOptions

logger = logging.getLogger(__name__)

_OPTIONS_OF_CONSUME = "BUS_CONSUME_"  # what the environment says for them; the command line of a child says all


class Child:
    """A worker process and the supervisor's end of its life-line. Making one starts it; needs the main thread.

    ``hung_up``: it will report nothing more.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start it.

        Raises:
            OSError: the system has no room for another process.
        """
        self.life_line, theirs = socket.socketpair()
        self.life_line.settimeout(0)
        self._received = b""
        self.hung_up = False
        fd = theirs.fileno()
        # Blocked signals stay blocked in the child until its life-line has made it deaf to them. Here they wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_SUPERVISOR)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this program, with options of ours
                [*command, "--life-line", str(fd)],
                env={name: value for name, value in os.environ.items() if not name.startswith(_OPTIONS_OF_CONSUME)},
                pass_fds=(fd,),
            )
        except OSError:
            self.life_line.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.pid = self._process.pid

    def send(self, order: Order) -> None:
        """Give it an order. Harmless when it is dead."""
        with suppress(OSError):
            self.life_line.send(bytes((order,)))

    def kill(self) -> None:
        """End it by SIGKILL. Harmless when it is dead."""
        self._process.kill()

    def reports(self) -> list[Report]:
        """Return what it has reported since the last call. Does not block."""
        try:
            while chunk := self.life_line.recv(65536):
                self._received += chunk
            self.hung_up = True
        except BlockingIOError:
            pass  # that was all for now
        except OSError:
            self.hung_up = True
        *lines, self._received = self._received.split(b"\n")
        return [report for report in map(_report, lines) if report is not None]

    def exit_code(self) -> int | None:
        """Return its exit code, the negative number of the signal that ended it, or None while it lives."""
        return self._process.poll()

    def close(self) -> None:
        """Let go of its life-line. Idempotent."""
        self.life_line.close()


def consume_command(
    selection: Sequence[str],
    options: WorkerOptions,
    *,
    bus: str | None = None,
    limits: Limits | None = None,
    global_options: Sequence[str] = (),
) -> list[str]:
    """Return the command line of a worker process.

    Args:
        selection: the receivers: names, or ``--all`` and what goes with it.
        options: how it works.
        bus: the bus for every message, instead of the one that the message names.
        limits: when it ends; the limit of time is the supervisor's.
        global_options: such as ``--config``.
    """
    limits = limits or Limits()
    values: dict[str, object] = {
        "--concurrency": options.concurrency,
        "--fetch-size": options.fetch_size or "auto",
        "--sleep": f"{options.sleep:.6f}",
        "--shutdown-timeout": f"{options.shutdown_timeout:.6f}s",
        "--bus": bus,
        "--limit": limits.messages,
        "--failure-limit": limits.failures,
        "--memory-limit": limits.memory,
    }
    flags = {"--fail-fast": options.fail_fast, "--stop-when-empty": options.stop_when_empty}
    return [
        *_python(),
        "-m",
        "bus",
        "consume",
        *global_options,
        *(f"{name}={value}" for name, value in values.items() if value is not None),
        *(name for name, given in flags.items() if given),
        *(f"--queues={queue}" for queue in options.queues),
        *selection,
    ]


def must_not_be_a_child() -> None:
    """Refuse to supervise in a worker process: it would start processes that start processes.

    Raises:
        ConfigurationError: this process has a life-line.
    """
    if LifeLine.of_this_process is not None:
        raise ConfigurationError(
            "This is a worker process, and the module that it imports consumes with processes of its own; "
            'put that call under if __name__ == "__main__":'
        )


def _python() -> list[str]:
    """Return the interpreter, with the same first place to import from as this process has."""
    here = not sys.flags.safe_path and sys.path[:1] in ([""], [str(Path.cwd())])
    return [sys.executable] if here else [sys.executable, "-P"]


def _report(line: bytes) -> Report | None:
    try:
        return Report.decode(line)
    except (ValueError, KeyError, TypeError) as error:
        logger.error("A worker process reported what cannot be read: %s", describe(error))
        return None
