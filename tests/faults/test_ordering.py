"""Ordered mode: messages of one key are handled in their order, whatever fails and whoever is killed."""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from bus import PartitionKeyStamp
from tests.faults.application import Job
from tests.faults.deployment import CONFIGURATION, Deployment
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN, DONE, Event
from tests.faults.processes import Process
from tests.faults.sizes import ORDERED
from tests.faults.waiting import wait_until

KEYS = 16
WORKERS = 4
REOWNED_WITHIN = 20.0  # seconds after the death of an owner


@pytest.fixture
def ordered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    in_order = CONFIGURATION.replace("queue_name=async'", "queue_name=async&ordered=true'")
    assert in_order != CONFIGURATION
    monkeypatch.setattr("tests.faults.deployment.CONFIGURATION", in_order)
    deployment = Deployment(tmp_path)
    try:
        yield deployment
    finally:
        deployment.close()


def publish(deployment: Deployment, count: int, failing: set[int]) -> None:
    """Dispatch messages whose numbers grow within each key; number modulo 16 is the key."""
    for key in range(KEYS):
        jobs = [
            Job(number, "fail", 1.0) if number in failing else Job(number, "sleep", 0.001)
            for number in range(key, count, KEYS)
        ]
        deployment.publish(jobs, [PartitionKeyStamp(f"key-{key}")])


def inversions(events: Iterable[Event]) -> int:
    """Count the events of a message for the first time after one of a later message of its key."""
    latest: dict[int, int] = defaultdict(lambda: -1)
    seen: set[int] = set()
    found = 0
    for event in events:
        key = event.number % KEYS
        found += event.number not in seen and event.number < latest[key]
        seen.add(event.number)
        latest[key] = max(latest[key], event.number)
    return found


def start(deployment: Deployment) -> list[Process]:
    workers = [deployment.worker("--concurrency", "4") for _ in range(WORKERS)]
    wait_until(lambda: owners(deployment) == WORKERS, "each worker has its share of the partitions")
    return workers


def owners(deployment: Deployment) -> int:
    """Count the processes that own partitions."""
    try:
        records = deployment.execute("SELECT value FROM messenger_store WHERE key LIKE 'partition:%'")
    except sqlite3.OperationalError:
        return 0  # no worker has begun yet
    return len({str(value).partition(".")[0] for (value,) in records})


@pytest.mark.parametrize("count", ORDERED)
def test_no_message_overtakes_an_earlier_one_of_its_key_that_fails(
    count: int, ordered: Deployment, figures: Figures
) -> None:
    chance = random.Random(figures.seed)
    failing = set(chance.sample(range(count), count // 10))
    workers = start(ordered)
    publish(ordered, count, failing)
    wait_until(ordered.is_empty, "the table is empty", within=30 + count / 20, every=0.1)
    for worker in workers:
        worker.stop()

    totals = ordered.totals()
    done, begun = ordered.journal.of(DONE), ordered.journal.of(BEGUN)
    readers = {event.pid for event in done}
    figures.add("R16 order per key", totals, inversions=inversions(done) + inversions(begun), readers=len(readers))
    assert totals.ok == totals.effects == count
    assert len(begun) >= count + len(failing), "each failing message fails once, and again where its reader changed"
    assert inversions(done) == 0
    assert inversions(begun) == 0
    assert len(readers) == WORKERS, "the partitions were not shared"


def test_the_partitions_of_a_killed_owner_are_read_by_others_in_order(ordered: Deployment, figures: Figures) -> None:
    count = 1600
    chance = random.Random(figures.seed)
    workers = start(ordered)
    publish(ordered, count, set(chance.sample(range(count), count // 10)))
    for worker in workers[:2]:
        ordered.wait_for(DONE, count=ordered.journal.count(DONE) + 100)
        worker.kill()
    wait_until(ordered.is_empty, "the table is empty", within=REOWNED_WITHIN + 20, every=0.1)
    for worker in workers[2:]:
        worker.stop()

    totals = ordered.totals()
    done = ordered.journal.of(DONE)
    figures.add("R16 owners killed", totals, inversions=inversions(done))
    assert totals.ok == count
    assert inversions(done) == 0
    assert inversions(ordered.journal.of(BEGUN)) == 0
