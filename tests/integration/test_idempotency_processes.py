"""Several processes get the same messages at the same time: each has its effect once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.redis import Keys

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("idempotency_program.py")
QUICK = (500, 0.05)
QUICK_ON_A_SERVER = (200, 0.05)
FULL = (5_000, 0.05)
PROCESSES = 8


def sizes(quick: tuple[int, float]) -> pytest.MarkDecorator:
    """Return how many messages there are, and how many seconds each of them takes."""
    full = pytest.param(*FULL, id="full", marks=[pytest.mark.full, pytest.mark.timeout(1200)])
    return pytest.mark.parametrize(("keys", "seconds"), [pytest.param(*quick, id="quick"), full])


class Contest:
    """Processes that dispatch the same messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, keys: int, seconds: float, *more: str) -> subprocess.Popen[str]:
        arguments = [str(self.folder / "bus.db"), str(self.folder / "journal"), str(keys), str(seconds), *more]
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.processes.append(process)
        return process

    def run(self) -> list[int]:
        """Let all begin at once and return their exit codes."""
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        return [process.wait(1000) for process in self.processes]

    def effects(self) -> Counter[str]:
        journal = self.folder / "journal"
        return Counter(journal.read_text().split()) if journal.exists() else Counter()

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None and not stream.closed:
                    stream.close()


@pytest.fixture
def contest(tmp_path: Path) -> Iterator[Contest]:
    contest = Contest(tmp_path)
    yield contest
    contest.end()


@sizes(QUICK)
def test_8_processes_with_the_same_messages_have_one_effect_for_each(
    contest: Contest, keys: int, seconds: float
) -> None:
    for _ in range(PROCESSES):
        contest.start(keys, seconds)

    codes = contest.run()

    assert codes == [0] * PROCESSES
    assert contest.effects() == Counter(str(number) for number in range(keys))


@sizes(QUICK_ON_A_SERVER)
def test_8_processes_that_agree_through_redis_have_one_effect_for_each_message(
    contest: Contest, keys: int, seconds: float, redis_keys: Keys
) -> None:
    for _ in range(PROCESSES):
        contest.start(keys, seconds, f"{redis_keys.url}?prefix={redis_keys.prefix}")

    codes = contest.run()

    assert codes == [0] * PROCESSES
    assert contest.effects() == Counter(str(number) for number in range(keys))


def test_looking_first_and_storing_later_would_have_more_effects(contest: Contest) -> None:
    """The proof that the test above can fail: idempotency in two steps does not pass it."""
    for _ in range(PROCESSES):
        contest.start(10, 0.05, "naive")

    assert contest.run() == [0] * PROCESSES
    assert contest.effects().total() > 10


def test_what_a_killed_process_had_claimed_is_handled_by_another(contest: Contest) -> None:
    killed = contest.start(1, 60)
    assert killed.stdout is not None
    assert killed.stdin is not None
    assert killed.stdout.readline() == "ready\n"
    killed.stdin.close()
    contest.processes.remove(killed)
    survivor = contest.start(1, 0)
    assert survivor.stdout is not None
    assert survivor.stdout.readline() == "ready\n"
    _wait_for_claim(contest.folder / "bus.db")
    assert survivor.stdin is not None
    survivor.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        survivor.wait(0.5)  # it waits as long as the other one lives

    killed.send_signal(signal.SIGKILL)

    assert survivor.wait(30) == 0
    assert killed.wait(30) == -signal.SIGKILL
    killed.stdout.close()
    assert contest.effects() == Counter(["0"])


def _wait_for_claim(database: Path) -> None:
    deadline = time.monotonic() + 30
    with closing(sqlite3.connect(database)) as connection:
        while not connection.execute("SELECT 1 FROM messenger_store WHERE value LIKE 'claimed%'").fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.01)
