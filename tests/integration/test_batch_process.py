"""What becomes of the messages that a worker process has collected when it is stopped or killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("batch_program.py")
ROOT = Path(__file__).parents[2]
DEADLINE = 30.0  # seconds

_spec = importlib.util.spec_from_file_location("batch_program", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
sys.modules["batch_program"] = program
_spec.loader.exec_module(program)


def eventually(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        threading.Event().wait(0.01)


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus = program.messenger(folder)
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        self.workers.append(worker)
        return worker

    def collected(self) -> subprocess.Popen[bytes]:
        """Start a worker that has collected five messages and is busy with another one."""
        self.bus.bus.dispatch_many([program.Busy(), *(program.Row(number) for number in range(5))])
        worker = self.start()
        eventually(lambda: self.bus.transports["queue"].counts().in_flight == 6)
        eventually(lambda: self.ledger == ["busy"])
        return worker

    @property
    def ledger(self) -> list[str]:
        file = self.folder / "ledger"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for worker in site.workers:
        worker.kill()
        worker.wait()
    site.bus.close()


def test_sigterm_hands_over_what_was_collected(site: Site) -> None:
    worker = site.collected()

    worker.send_signal(signal.SIGTERM)
    (site.folder / "go").touch()

    assert worker.wait(DEADLINE) == 0
    rows = [number for line in site.ledger if line != "busy" for number in line.split()]
    assert rows == ["0", "1", "2", "3", "4"]
    counts = site.bus.transports["queue"].counts()
    assert (counts.ready, counts.in_flight) == (0, 0)


def test_what_a_killed_worker_had_collected_comes_back(site: Site) -> None:
    worker = site.collected()

    worker.kill()
    worker.wait(DEADLINE)
    (site.folder / "go").touch()

    assert site.start().wait(DEADLINE) == 0
    rows = [number for line in site.ledger if line != "busy" for number in line.split()]
    assert sorted(rows) == ["0", "1", "2", "3", "4"]
