"""Servers that end with the tests that started them, whatever ends the tests.

    python guard.py COMMAND...

runs a command in a session of its own, prints its process id, and kills its process group when standard input ends.
The tests hold the other end of that pipe; a test run that is killed lets go of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE = 60.0  # seconds


class Guarded:
    """A running server. ``pid`` is its own process, not the guard's."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
        with output.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, __file__, *command],
                env=environment,
                cwd=output.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline())

    @property
    def alive(self) -> bool:
        return self._guard.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def wait(self, within: float = PATIENCE) -> None:
        """Wait for its end."""
        self._guard.wait(within)
        self._let_go()

    def end(self) -> None:
        """Kill it and its process group, and wait for the end."""
        self._let_go()
        self._guard.wait(PATIENCE)

    def _let_go(self) -> None:
        for pipe in (self._guard.stdin, self._guard.stdout):
            assert pipe is not None
            pipe.close()


def guard(command: Sequence[str]) -> int:
    """Run a command until it ends or standard input does; return its exit code."""
    # What the server prints goes where errors go: standard output is for the process id.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    print(server.pid, flush=True)

    def kill_when_let_go() -> None:
        sys.stdin.buffer.read()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)

    threading.Thread(target=kill_when_let_go, daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    code = guard(sys.argv[1:])
    # A daemon thread may hold the lock of standard input, for which an ordinary exit would wait.
    os._exit(code & 0xFF)
