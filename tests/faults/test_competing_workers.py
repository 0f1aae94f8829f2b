"""Many workers on one table, delays across restarts, handlers that take long: each message is handled once."""

from __future__ import annotations

import random
import time

import pytest

from bus import DelayStamp
from tests.faults.application import Job
from tests.faults.behaviours import release_of
from tests.faults.deployment import Deployment
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN, DONE
from tests.faults.sizes import CLAIMING_PROCESSES, DELAYED, LONG_HANDLER_SECONDS, Delays
from tests.faults.waiting import PATIENCE, wait_until

ROWS = 20_000
LATE = 1.0  # seconds that a delayed message may come late: the longest pause between two looks
BUSY = 2.0  # seconds more that a machine with other work may take; the figure is what counts


@pytest.mark.parametrize("processes", CLAIMING_PROCESSES)
def test_workers_that_race_for_messages_handle_each_once(
    processes: int, deployment: Deployment, figures: Figures
) -> None:
    deployment.publish([Job(number) for number in range(ROWS)])
    started = time.monotonic()
    workers = [deployment.worker() for _ in range(processes)]
    wait_until(deployment.is_empty, "the table is empty", within=600, every=0.2)
    seconds = time.monotonic() - started
    for worker in workers:
        worker.stop()

    totals = deployment.totals()
    shares = [sum(1 for each in deployment.journal.of(DONE) if each.pid == worker.pid) for worker in workers]
    figures.add("R11 claim race", totals, processes=processes, smallest_share=min(shares), seconds=seconds)
    assert totals.ok == totals.effects == ROWS
    assert deployment.journal.count(BEGUN) == ROWS
    assert sum(1 for share in shares if share) > processes // 2, "they did not compete"


@pytest.mark.parametrize("size", DELAYED)
def test_delays_are_kept_across_restarts_and_do_not_wait_for_longer_ones(
    size: Delays, deployment: Deployment, figures: Figures
) -> None:
    chance = random.Random(figures.seed)
    workers = [deployment.worker(), deployment.worker()]
    for worker in workers:
        worker.wait_for_line("Worker started")
    earliest: dict[int, float] = {}
    latest: dict[int, float] = {}
    longest_first = sorted((chance.uniform(0.5, size.longest) for _ in range(size.messages)), reverse=True)
    for number, delay in enumerate(longest_first):
        milliseconds = round(delay * 1000)
        earliest[number] = time.time() + milliseconds / 1000
        deployment.publish([Job(number)], [DelayStamp(milliseconds)])
        latest[number] = time.time() + milliseconds / 1000
    for restart in range(size.restarts):
        deployment.wait_for(
            DONE, count=size.messages * (restart + 1) // (size.restarts + 2), within=size.longest + PATIENCE
        )
        # One of the two works all the time, so that no delay waits for a start.
        workers[restart % 2].stop()
        workers[restart % 2] = deployment.worker()
        workers[restart % 2].wait_for_line("Worker started")
    deployment.wait_until_empty(within=size.longest + PATIENCE)
    for worker in workers:
        worker.stop()

    events = deployment.journal.of(DONE)
    late = sorted(event.at - latest[event.number] for event in events)
    early = sum(1 for event in events if event.at < earliest[event.number] - 0.002)
    p99 = late[int(len(late) * 0.99)]
    behind = overtaken([latest[event.number] for event in sorted(events, key=lambda event: event.at)])
    totals = deployment.totals()
    figures.add(
        "R12 delays, longest first", totals, restarts=size.restarts, p99_late=p99, inversions=behind, early=early
    )
    assert totals.ok == totals.effects == size.messages
    assert early == 0
    assert p99 <= LATE + BUSY
    assert behind == 0


def overtaken(due_times: list[float]) -> int:
    """Count the messages that were handled after one that was due so much later that no pause explains it."""
    latest_so_far = 0.0
    count = 0
    for due in due_times:
        count += due + LATE + BUSY < latest_so_far
        latest_so_far = max(latest_so_far, due)
    return count


def test_a_late_acknowledgement_touches_nothing(deployment: Deployment) -> None:
    """The lock file of a living worker is removed, as a cleaner of old files would do: its claim is lost."""
    deployment.publish([Job(0, "wait for release")])
    late = deployment.worker()
    deployment.wait_for(BEGUN, 0)
    for lock in deployment.folder.glob("bus.db-claims/*"):
        lock.unlink()
    owner = deployment.worker()
    deployment.wait_for(BEGUN, 0, count=2)
    (deployment.folder / release_of(late.pid)).touch()
    late.wait_for_line("Claim lost")
    assert owner.alive
    assert deployment.counts().in_flight == 1, "the other worker's message is gone"
    owner.kill()
    late.stop()
    last = deployment.worker()
    (deployment.folder / release_of(last.pid)).touch()
    deployment.wait_until_empty(last)
    last.stop()
    assert deployment.journal.effects() == {0: 2}


@pytest.mark.parametrize("seconds", LONG_HANDLER_SECONDS)
def test_a_handler_that_takes_long_keeps_its_message(seconds: float, deployment: Deployment, figures: Figures) -> None:
    """Dead workers are looked for each 5 s, so several times meanwhile."""
    deployment.publish([Job(0, "sleep", seconds), Job(1), Job(2)])
    worker = deployment.worker("--fetch-size", "3")
    deployment.wait_for(BEGUN, 0)
    others = [deployment.worker() for _ in range(2)]
    deployment.wait_for(DONE, 0, within=seconds + PATIENCE)
    deployment.wait_until_empty()
    for each in (worker, *others):
        each.stop()

    totals = deployment.totals()
    figures.add("R14 long handler", totals, seconds=seconds)
    assert deployment.journal.count(BEGUN) == totals.effects == totals.ok == 3
