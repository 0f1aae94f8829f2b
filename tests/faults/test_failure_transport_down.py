"""The failure transport is away for a while: what failed waits in its own transport, and is stored once afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.faults.application import Job
from tests.faults.deployment import Deployment, hold_for, write_lock
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN, DONE
from tests.faults.sizes import FAILURE_TRANSPORT_AWAY_SECONDS, FAILURE_TRANSPORT_LOCKED_SECONDS
from tests.faults.waiting import wait_until

REFUSED = range(5)
FINE = range(5, 45)

Outage = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def folder_in_its_place(database: Path) -> Iterator[None]:
    """Put a folder where the database should be."""
    aside = database.with_suffix(".aside")
    database.rename(aside)
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    database.mkdir()
    yield
    database.rmdir()
    aside.rename(database)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, failed_database="failed.db")
    try:
        deployment.messenger.set_up()
        deployment.messenger.close()
        yield deployment
    finally:
        deployment.close()


@pytest.mark.parametrize("seconds", FAILURE_TRANSPORT_LOCKED_SECONDS)
def test_messages_that_fail_while_the_failure_transport_is_locked_are_stored_once_afterwards(
    seconds: float, deployment: Deployment, figures: Figures
) -> None:
    store_during_an_outage(write_lock, seconds, deployment, figures)


@pytest.mark.parametrize("seconds", FAILURE_TRANSPORT_AWAY_SECONDS)
def test_messages_that_fail_while_the_failure_transport_is_away_are_stored_once_afterwards(
    seconds: float, deployment: Deployment, figures: Figures
) -> None:
    store_during_an_outage(folder_in_its_place, seconds, deployment, figures)


def store_during_an_outage(outage: Outage, seconds: float, deployment: Deployment, figures: Figures) -> None:
    with outage(deployment.failed_database):
        deployment.publish([Job(number, "refuse") for number in REFUSED])
        deployment.publish([Job(number) for number in FINE])
        worker = deployment.worker("--concurrency", "5")
        hold_for(seconds)
        assert worker.alive, worker.output
        assert deployment.journal.effects().keys() == set(FINE), "the others are handled meanwhile"
        counts = deployment.counts()
        waiting = counts.ready + (counts.delayed or 0) + (counts.in_flight or 0)
        assert waiting == len(REFUSED), "nothing has left its transport"
    recovered = wait_until(deployment.is_empty, "all are stored", every=0.05)
    worker.stop()

    totals = deployment.totals()
    figures.add(f"2.5 failure transport down ({outage.__name__})", totals, seconds=seconds, recovered_after=recovered)
    assert deployment.failed() == list(REFUSED), "each exactly once"
    assert totals.lost == totals.repeats == 0
    assert "is put back for" in worker.output
    assert deployment.journal.count(BEGUN, 0) == 1, "waiting for the failure transport is no attempt"
    assert deployment.journal.count(DONE) == len(FINE)
