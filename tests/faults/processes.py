"""Processes that a test starts: watched by their output, and ended with the test whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.faults.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]


class Process:
    """A child process. What it writes to stdout and stderr is read all the time, so that no pipe fills up."""

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
        self._popen = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A process group of its own, so that a signal to all of it does not reach the tests.
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, name=f"output-of-{self.pid}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for line in output:
                self._lines.append(line.decode(errors="replace").rstrip("\n"))

    @property
    def lines(self) -> list[str]:
        return self._lines[:]

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def wait_for_line(self, text: str, within: float = PATIENCE) -> str:
        """Return the first line with this text."""

        def find() -> str | None:
            return next((line for line in self.lines if text in line), None)

        wait_until(lambda: find() or not self.alive, f'process {self.pid} writes "{text}"', within)
        if not self.alive:
            self.wait()  # and with it for the rest of its output
        found = find()
        assert found is not None, f'process {self.pid} ended without writing "{text}"; it wrote:\n{self.output}'
        return found

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            self._popen.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and to all that it started, as a terminal does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it by SIGKILL and wait for its end."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, within: float = PATIENCE) -> int:
        """Return its exit code, or the negative number of the signal that ended it."""
        try:
            code = self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} has not ended within {within:g} s:\n{self.output}") from None
        self._reader.join(within)
        return code

    def stop(self, within: float = PATIENCE) -> None:
        """Ask a worker to stop, by SIGTERM; it must leave with exit code 0."""
        self.send(signal.SIGTERM)
        code = self.wait(within)
        assert code == 0, f"exit code {code}:\n{self.output}"


class Processes:
    """The processes of one test. ``end_all`` leaves none of them."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._folder = folder
        self._variables = variables
        self._started: list[Process] = []

    def start(self, *arguments: str, **variables: str) -> Process:
        """Start a Python process in the folder of the test."""
        process = Process([sys.executable, *arguments], self._folder, {**self._variables, **variables})
        self._started.append(process)
        return process

    def end_all(self) -> None:
        for process in self._started:
            process.send_to_group(signal.SIGKILL)
            process.wait()
        self._started.clear()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BUS_", "DATABASE_URL"))}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}
