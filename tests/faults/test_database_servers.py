"""Worker processes on PostgreSQL and MariaDB, whose connections are cut and which crash and come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import DispatchManyError
from tests.faults.application import Job
from tests.faults.deployment import Deployment
from tests.faults.figures import Figures
from tests.faults.sizes import sizes
from tests.faults.waiting import wait_until
from tests.servers.databases import private_mariadb, private_postgres
from tests.servers.mariadb import MariaDb
from tests.servers.postgres import Postgres

CONFIGURATION = """
messenger:
  imports: [tests.faults.application]
  failure_transport: failed
  connections: {{ default: 'sqlite:///bus.db' }}
  transports:
    async:
      dsn: '<dsn>?queue_name=async'
      retry_strategy: {{ max_retries: 3, delay: 20, multiplier: 1, jitter: 0 }}
    failed: 'sqlite:///{failed}?queue_name=failed'
  routing:
    'tests.faults.application.*': async
"""
WORKERS = 2
FETCH_SIZE = 10
LEASE = 20.0  # seconds, with the time until a worker looks
ON_A_LOADED_MACHINE = 20.0


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres | MariaDb]:
    with private_postgres() if request.param == "postgresql" else private_mariadb() as server:
        yield server


@pytest.fixture
def deployment(server: Postgres | MariaDb, tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, "failed.db", CONFIGURATION.replace("<dsn>", server.make_database()))
    try:
        yield deployment
    finally:
        deployment.close()


@pytest.mark.parametrize("size", sizes((300, 2), (20_000, 30)))
def test_cut_connections_and_crashes_lose_nothing(
    server: Postgres | MariaDb, deployment: Deployment, size: tuple[int, int], figures: Figures, request: Any
) -> None:
    messages, rounds = size
    jobs = [Job(number) for number in range(messages)]
    workers = [deployment.worker("--fetch-size", str(FETCH_SIZE)) for _ in range(WORKERS)]
    share = messages // rounds
    for number in range(rounds):
        for start in range(number * share, (number + 1) * share, 10):
            publish(deployment, jobs[start : start + 10])
        server.terminate_backends()
        wait_until(lambda at=number * share: deployment.journal.count("done") > at, "work goes on", 60)
        server.kill()
        server.start()
    deployment.wait_until_empty(workers[0], within=90)
    for worker in workers:
        worker.stop()

    totals = deployment.totals()
    faults = 2 * rounds
    # A claim whose answer was lost comes back, and so does an acknowledgement that a crash undid.
    bound = faults * WORKERS * (1 + FETCH_SIZE) + rounds * 10
    figures.add(f"connections cut and {type(server).__name__} killed", totals, faults=faults, bound=bound)
    assert totals.lost == totals.unexpected == 0
    assert totals.repeats <= bound


def publish(deployment: Deployment, jobs: list[Job]) -> None:
    """Dispatch jobs, again those of which it is not known whether they were sent."""
    numbers = {job.number for job in jobs}
    deployment.ledger.attempted |= numbers
    waiting: list[Any] = list(jobs)
    while waiting:
        try:
            deployment.messenger.bus.dispatch_many(waiting)
            waiting = []
        except DispatchManyError as error:
            waiting = [waiting[position] for position in error.errors]
    deployment.ledger.acknowledged |= numbers


@pytest.mark.parametrize("size", sizes((2_000, 4), (20_000, 16)))
def test_nothing_is_claimed_twice(deployment: Deployment, size: tuple[int, int], figures: Figures) -> None:
    messages, processes = size
    deployment.publish(Job(number) for number in range(messages))
    workers = [deployment.worker() for _ in range(processes)]
    deployment.wait_until_empty(within=300)
    for worker in workers:
        worker.stop()

    totals = deployment.totals()
    figures.add("claims raced for on database servers", totals, processes=processes)
    assert totals.lost == totals.unexpected == totals.repeats == 0


def test_a_killed_workers_message_comes_back_within_20_seconds(deployment: Deployment) -> None:
    first = deployment.worker()
    deployment.publish([Job(1, "sleep", 3600)])
    deployment.wait_for("begun", 1)
    first.kill()
    began = time.monotonic()

    second = deployment.worker()
    deployment.wait_for("begun", 1, count=2, within=60)

    assert time.monotonic() - began < LEASE + ON_A_LOADED_MACHINE
    second.kill()
