"""A message that ends its worker, however it does: it alone is condemned, and its neighbours are handled."""

from __future__ import annotations

import resource
import signal

import pytest

from tests.faults.application import Job
from tests.faults.deployment import Deployment
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN, DONE
from tests.faults.sizes import GIVE_BACKS
from tests.faults.waiting import wait_until

KILLER = 20
MAX_DELIVERIES = 3
MESSAGES = 50

# How the worker looks from outside when it is gone.
DEATHS = {
    "kill itself": -signal.SIGKILL,
    "leave as if done": 0,
    "segfault": -signal.SIGSEGV,
    "abort": -signal.SIGABRT,
}


def jobs_around(killer: str) -> list[Job]:
    return [Job(number, killer if number == KILLER else "sleep", 0.002) for number in range(MESSAGES)]


def restart_until_empty(deployment: Deployment, *arguments: str) -> list[int]:
    """Start a worker again each time it dies, until nothing is left; return the exit codes of those that died."""
    deaths: list[int] = []
    while True:
        worker = deployment.worker(*arguments)
        wait_until(lambda: not worker.alive or deployment.is_empty(), "the worker dies or has done everything")  # noqa: B023
        if worker.alive:
            worker.stop()
            return deaths
        deaths.append(worker.wait())
        assert len(deaths) <= 2 * MAX_DELIVERIES, "the worker dies and dies"


@pytest.mark.parametrize(
    ("killer", "concurrency"),
    [*[(killer, 1) for killer in DEATHS], ("kill itself", 4), pytest.param("abort", 4, marks=pytest.mark.full)],
)
def test_a_message_that_ends_its_worker_is_condemned_alone(
    killer: str, concurrency: int, deployment: Deployment, figures: Figures
) -> None:
    deployment.publish(jobs_around(killer))
    deaths = restart_until_empty(deployment, "--concurrency", str(concurrency))

    figures.add(f'R9 "{killer}", concurrency {concurrency}', deployment.totals(), deaths=len(deaths))
    assert deaths == [DEATHS[killer]] * MAX_DELIVERIES
    assert deployment.failed() == [KILLER]
    assert deployment.journal.count(BEGUN, KILLER) == MAX_DELIVERIES
    effects = deployment.journal.effects()
    assert sorted(effects) == [number for number in range(MESSAGES) if number != KILLER]
    assert set(effects.values()) <= {1, 2}


@pytest.mark.full
def test_a_message_that_overflows_the_stack_is_condemned_alone(deployment: Deployment, figures: Figures) -> None:
    deployment.publish(jobs_around("overflow the stack"))
    deaths = restart_until_empty(deployment)

    figures.add('R9 "overflow the stack"', deployment.totals(), deaths=len(deaths))
    assert deaths == [-signal.SIGSEGV] * MAX_DELIVERIES
    assert deployment.failed() == [KILLER]
    assert sorted(deployment.journal.effects()) == [number for number in range(MESSAGES) if number != KILLER]


def test_a_message_that_eats_all_memory_fails_and_its_worker_lives(deployment: Deployment, figures: Figures) -> None:
    deployment.publish(jobs_around("eat memory"))
    worker = deployment.worker()
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (2**31, 2**31))
    deployment.wait_until_empty(worker)
    worker.stop()

    figures.add('R9 "eat memory"', deployment.totals(), deaths=0)
    assert deployment.failed() == [KILLER]
    assert deployment.journal.count(BEGUN, KILLER) == 4, "it is a failed attempt, and has three retries"
    assert {event.pid for event in deployment.journal.events()} == {worker.pid}
    assert set(deployment.journal.effects().values()) == {1}


@pytest.mark.parametrize("stops", GIVE_BACKS)
def test_giving_messages_back_condemns_none(stops: int, deployment: Deployment, figures: Figures) -> None:
    deployment.publish([Job(number, "sleep", 0.02) for number in range(20 * stops)])
    held = 0
    for _ in range(stops):
        handled = deployment.journal.count(DONE)
        worker = deployment.worker("--fetch-size", "50")
        deployment.wait_for(DONE, count=handled + 1)
        wait_until(lambda: held_by_workers(deployment) > 1, "the worker holds messages that it has not begun")
        held += held_by_workers(deployment)
        worker.stop()
        assert deployment.counts().in_flight == 0
        assert deployment.execute("SELECT count(*) FROM messenger_messages WHERE deliveries > 0") == [(0,)]
    deployment.drain()

    totals = deployment.totals()
    figures.add("R9 giving back", totals, stops=stops, held_at_the_stops=held)
    assert totals.lost == totals.repeats == totals.in_failure_transport == 0


def held_by_workers(deployment: Deployment) -> int:
    return deployment.counts().in_flight or 0
