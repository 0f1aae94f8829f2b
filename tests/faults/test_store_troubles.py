"""A full disk, a locked database, a handler that keeps a transaction open: errors that are told, and nothing lost."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine, event

from bus import TransportError
from tests.faults.application import Job
from tests.faults.deployment import Deployment, hold_for, write_lock
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN, DONE
from tests.faults.processes import Process
from tests.faults.sizes import FULL_DISK_SECONDS, LOCKED_SECONDS, OPEN_TRANSACTION_SECONDS
from tests.faults.waiting import PATIENCE, wait_until

SEND_DEADLINE = 5.0
SLACK = 2.0  # seconds by which a busy machine may miss a deadline
LARGE = 4096  # bytes, so that the disk is full soon


@dataclass
class Publisher:
    """The program ``publisher.py``, and what it said."""

    process: Process
    deployment: Deployment

    def said(self, word: str) -> list[list[str]]:
        return [line.split(maxsplit=3) for line in self.process.lines if line.startswith(word)]

    def wait_for(self, word: str, more: int) -> None:
        target = len(self.said(word)) + more

        def look() -> bool:
            assert self.process.alive, self.process.output
            return len(self.said(word)) >= target

        wait_until(look, f"the publisher says {word} {more} times more")

    def stop(self) -> None:
        """End it and enter what it sent into the ledger."""
        self.process.stop()
        sent = {int(words[1]) for words in self.said("sent")}
        self.deployment.ledger.acknowledged |= sent
        self.deployment.ledger.attempted |= sent | {int(words[1]) for words in self.said("refused")}

    def longest_call(self) -> float:
        return max(float(words[2]) for word in ("sent", "refused") for words in self.said(word))


def start_publisher(deployment: Deployment, padding: int = 0) -> Publisher:
    process = deployment.processes.start("-m", "tests.faults.publisher", "messenger.yaml", str(padding), "0.02")
    return Publisher(process, deployment)


@pytest.fixture
def growable() -> Iterator[list[sqlite3.Connection]]:
    """Let no database of this process grow beyond 64 pages; yield the connections, which can be allowed more."""
    connections: list[sqlite3.Connection] = []

    def limit(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 64")
        connections.append(connection)

    event.listen(Engine, "connect", limit)
    yield connections
    event.remove(Engine, "connect", limit)


def test_a_dispatch_into_a_full_database_raises_and_the_next_one_works_when_there_is_space(
    deployment: Deployment, growable: list[sqlite3.Connection]
) -> None:
    with pytest.raises(TransportError, match="no space left"):
        publish_until_it_fails(deployment)
    assert len(deployment.ledger.acknowledged) > 10
    for connection in growable:
        with suppress(sqlite3.ProgrammingError):  # closed meanwhile
            connection.execute("PRAGMA max_page_count = 100000")
    deployment.publish([Job(2000)])
    deployment.drain()

    totals = deployment.totals()
    assert totals.lost == totals.unexpected == totals.repeats == totals.in_failure_transport == 0


def publish_until_it_fails(deployment: Deployment) -> None:
    for number in range(1000):
        deployment.ledger.attempted.add(number)
        deployment.messenger.bus.dispatch(Job(number, padding="x" * LARGE))
        deployment.ledger.acknowledged.add(number)


@pytest.mark.parametrize("seconds", FULL_DISK_SECONDS)
def test_a_full_disk_loses_nothing_and_work_goes_on_when_there_is_space(
    seconds: float, deployment: Deployment, figures: Figures
) -> None:
    publisher = start_publisher(deployment, LARGE)
    worker = deployment.worker()
    publisher.wait_for("sent", 10)
    size = (deployment.folder / "bus.db-wal").stat().st_size
    for process in (publisher.process, worker):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 20 * LARGE, resource.RLIM_INFINITY))
    publisher.wait_for("refused", 3)
    hold_for(seconds)
    assert worker.alive, worker.output
    for process in (publisher.process, worker):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    freed = time.monotonic()
    publisher.wait_for("sent", 20)
    recovered = time.monotonic() - freed
    publisher.stop()
    deployment.wait_until_empty(worker)
    worker.stop()

    totals = deployment.totals()
    longest = publisher.longest_call()
    figures.add("R15 disk full", totals, seconds=seconds, longest_dispatch=longest, recovered_after=recovered)
    assert totals.lost == totals.unexpected == totals.in_failure_transport == 0
    assert totals.repeats == 0, "the worker lived all the time, so it kept its claims"
    assert longest < SEND_DEADLINE + SLACK
    assert {each.pid for each in deployment.journal.events()} == {worker.pid}


@pytest.mark.parametrize("seconds", LOCKED_SECONDS)
def test_a_locked_database_is_told_in_time_and_loses_nothing(
    seconds: float, deployment: Deployment, figures: Figures
) -> None:
    publisher = start_publisher(deployment)
    worker = deployment.worker("--concurrency", "2")
    publisher.wait_for("sent", 20)
    with write_lock(deployment.database):
        hold_for(seconds)
        publisher.wait_for("refused", 1)
        assert worker.alive, worker.output
    publisher.wait_for("sent", 20)
    publisher.stop()
    deployment.wait_until_empty(worker)
    worker.stop()

    totals = deployment.totals()
    longest = publisher.longest_call()
    figures.add("R15 database locked", totals, seconds=seconds, longest_dispatch=longest)
    assert all("locked" in words[3] for words in publisher.said("refused"))
    assert longest < SEND_DEADLINE + SLACK
    assert totals.lost == totals.unexpected == totals.repeats == totals.in_failure_transport == 0
    assert {each.pid for each in deployment.journal.events()} == {worker.pid}


@pytest.mark.parametrize("seconds", OPEN_TRANSACTION_SECONDS)
def test_a_transaction_that_a_handler_keeps_open_costs_no_claim(
    seconds: float, deployment: Deployment, figures: Figures
) -> None:
    deployment.publish(
        [
            *(Job(number) for number in range(10)),
            Job(10, "hold a transaction", seconds),
            *(Job(number) for number in range(11, 60)),
        ]
    )
    holder = deployment.worker("--fetch-size", "20")
    deployment.wait_for(BEGUN, 10)
    other = deployment.worker("--fetch-size", "20")
    other.wait_for_line("Worker started")
    deployment.wait_for(DONE, 10, within=seconds + PATIENCE)
    deployment.wait_until_empty()
    holder.stop()
    other.stop()

    totals = deployment.totals()
    figures.add("R15 open handler transaction", totals, seconds=seconds)
    assert totals.ok == 60
    assert totals.repeats == totals.in_failure_transport == 0
    assert deployment.journal.count(BEGUN, 10) == 1
