"""A worker dies, at a known step or anywhere: nothing is lost, and at most what was in flight is handled twice."""

from __future__ import annotations

import random
import signal
import threading
from itertools import cycle, islice

import pytest

from tests.faults.application import Job, mixed_job
from tests.faults.deployment import Deployment
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN, DONE
from tests.faults.processes import Process
from tests.faults.sizes import RANDOM_KILLS, STEP_ROUNDS, Kills
from tests.faults.waiting import wait_until

STEPS = (
    "received",
    "handler_start",
    "handler_end",
    "before_settle",
    "after_settle",
    "before_failure",
    "after_failure",
)
# Changing ones, so that no message is in the worker's hands at each of its deaths: that would condemn it, rightly.
HITS = (2, 5, 3, 9)
FETCH_SIZE = 4


def mixed_jobs(count: int) -> list[Job]:
    return [mixed_job(number) for number in range(count)]


def refused(jobs: list[Job]) -> list[int]:
    return [job.number for job in jobs if job.does == "refuse"]


def ended_or_empty(deployment: Deployment, worker: Process) -> None:
    """Wait until the worker has died, or has nothing left to do; then stop it."""
    wait_until(lambda: not worker.alive or deployment.is_empty(), "the worker dies or has done everything", every=0.05)
    worker.send(signal.SIGTERM)
    worker.wait()


@pytest.mark.parametrize("rounds", STEP_ROUNDS)
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_a_step_loses_nothing(
    step: str, rounds: int, deployment: Deployment, figures: Figures
) -> None:
    jobs = mixed_jobs(40 * rounds)
    deployment.publish(jobs)
    kills = 0
    for hit in islice(cycle(HITS), rounds):
        worker = deployment.worker("--fetch-size", str(FETCH_SIZE), failpoints=f"{step}=kill9@{hit}")
        ended_or_empty(deployment, worker)
        kills += worker.wait() == -signal.SIGKILL
    deployment.drain()

    totals = deployment.totals()
    figures.add(f"R5 SIGKILL at {step}", totals, kills=kills)
    assert kills >= 1
    assert totals.acknowledged == len(jobs)
    assert totals.lost == totals.unexpected == 0
    assert totals.repeats <= kills * (1 + FETCH_SIZE)
    failed = deployment.failed()
    assert sorted(set(failed)) == refused(jobs), "an innocent message was condemned, or a refused one was not stored"
    assert len(failed) - len(set(failed)) <= kills * (1 + FETCH_SIZE)


@pytest.mark.parametrize("step", STEPS[1:])
def test_an_error_at_a_step_loses_nothing(step: str, deployment: Deployment, figures: Figures) -> None:
    jobs = mixed_jobs(60)
    deployment.publish(jobs)
    failpoints = ",".join(f"{step}=raise@{hit}" for hit in (1, 4, 6))
    worker = deployment.worker("--fetch-size", str(FETCH_SIZE), failpoints=failpoints)
    deployment.wait_until_empty(worker)
    worker.stop()

    totals = deployment.totals()
    figures.add(f"R5 error at {step}", totals, errors=3)
    assert totals.lost == totals.unexpected == 0
    assert totals.repeats <= 3
    failed = deployment.failed()
    # What fails outside the stack is not tried again: it goes to the failure transport at once.
    given_up = 3 if step in ("handler_start", "handler_end") else 0
    assert len(set(failed)) <= len(refused(jobs)) + given_up
    assert set(refused(jobs)) <= set(failed)
    assert len(failed) - len(set(failed)) <= 3


def test_a_kill_after_the_requeue_of_a_retry_costs_neither_the_message_nor_its_count(deployment: Deployment) -> None:
    """With one message at a time, each kill comes right after a message was requeued or removed."""
    deployment.publish([Job(number, "fail", 2) for number in range(3)])
    for _ in range(9):
        worker = deployment.worker("--fetch-size", "1", failpoints="after_settle=kill9@1")
        assert worker.wait() == -signal.SIGKILL

    assert deployment.is_empty()
    assert deployment.failed() == []
    for number in range(3):
        assert deployment.journal.count(BEGUN, number) == 3
        assert deployment.journal.count(DONE, number) == 1


def test_a_kill_after_the_failure_transport_has_stored_a_message_stores_it_at_most_twice(
    deployment: Deployment,
) -> None:
    deployment.publish([Job(0, "refuse")])
    worker = deployment.worker(failpoints="after_failure=kill9@1")
    assert worker.wait() == -signal.SIGKILL
    assert deployment.failed() == [0]
    deployment.drain()
    assert deployment.failed() == [0, 0]
    assert deployment.is_empty()


@pytest.mark.parametrize("size", RANDOM_KILLS)
def test_workers_killed_at_random_under_load_lose_nothing(
    size: Kills, deployment: Deployment, figures: Figures
) -> None:
    chance = random.Random(figures.seed)
    jobs = mixed_jobs(size.messages)
    publisher = threading.Thread(target=publish_one_after_the_other, args=(deployment, jobs), name="publisher")
    arguments = [("--fetch-size", "10"), ("--fetch-size", "10", "--concurrency", "4")]
    in_flight = [1 + 10, 4 + 10]
    workers = [deployment.worker(*each) for each in arguments]
    publisher.start()
    bound = 0
    try:
        for kill in range(size.kills):
            work_on(deployment, chance.randint(1, size.messages // size.kills))
            victim = kill % len(workers)
            workers[victim].kill()
            bound += in_flight[victim]
            workers[victim] = deployment.worker(*arguments[victim])
    finally:
        publisher.join()
    for worker in workers:
        worker.kill()
    deployment.drain(within=600)

    totals = deployment.totals()
    figures.add("R1 random SIGKILL under load", totals, kills=size.kills, bound=bound + sum(in_flight))
    assert totals.acknowledged == size.messages
    assert totals.lost == totals.unexpected == 0
    assert totals.repeats <= bound + sum(in_flight)
    assert set(deployment.failed()) == set(refused(jobs)), "an innocent message was condemned"


def work_on(deployment: Deployment, messages: int) -> None:
    """Wait until so many more messages were handled, or none is left."""
    target = deployment.journal.count(DONE) + messages
    wait_until(lambda: deployment.journal.count(DONE) >= target or deployment.is_empty(), "work goes on")


def publish_one_after_the_other(deployment: Deployment, jobs: list[Job]) -> None:
    for start in range(0, len(jobs), 10):
        deployment.publish(jobs[start : start + 10])
