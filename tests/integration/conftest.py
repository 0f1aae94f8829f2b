"""A SQLite database, drivers on it, and other processes that use it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from bus.testing.clock import FakeClock
from bus.transports.dsn import Dsn
from bus.transports.registry import DriverContext
from bus.transports.sql import SqlDriver, create

# A distribution of its own, whose tests are run by test_third_party_transport.py where it is installed.
collect_ignore = ["third_party"]

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("sqlite_program.py")
DEADLINE = 60.0  # seconds


class Program:
    """A running ``sqlite_program.py``."""

    def __init__(self, command: str, database: Path, number: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), command, str(database), str(number)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def says(self) -> object:
        """Return the next line that it prints, read as JSON."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE)
        assert ready, "the program said nothing"
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait(DEADLINE)}"
        return json.loads(line)

    def go_on(self) -> None:
        """End its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, and wait for its death where that is what the signal means."""
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(DEADLINE)

    def end(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class OpenSqlite(Protocol):
    def __call__(self, **options: object) -> SqlDriver: ...


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def open_sqlite(database: Path, clock: FakeClock) -> Iterator[OpenSqlite]:
    """Yield a function that opens a driver on the database."""
    drivers: list[SqlDriver] = []

    def open_sqlite(**options: object) -> SqlDriver:
        drivers.append(create("orders", Dsn.parse(f"sqlite:///{database}"), options, DriverContext(clock=clock)))
        return drivers[-1]

    yield open_sqlite
    for driver in drivers:
        driver.close()


@pytest.fixture
def driver(open_sqlite: OpenSqlite) -> SqlDriver:
    return open_sqlite()


@pytest.fixture
def start(database: Path) -> Iterator[Callable[..., Program]]:
    """Yield a function that starts a command of ``sqlite_program.py`` on the database."""
    programs: list[Program] = []

    def start(command: str, number: int = 0) -> Program:
        programs.append(Program(command, database, number))
        return programs[-1]

    yield start
    for program in programs:
        program.end()
