"""SIGTERM and SIGINT in every state of a worker: it ends in time with code 0, and gives back what it has not begun."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from bus import DelayStamp, Envelope
from bus.stamps import ClaimStamp
from tests.faults.application import AsyncJob, Job
from tests.faults.deployment import Deployment, write_lock
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN, DONE
from tests.faults.processes import Process
from tests.faults.sizes import SIGNAL_REPETITIONS
from tests.faults.waiting import wait_until

GRACE = 20.0
BOUND = 10.0  # seconds: an exit takes far less, but the machine may be busy
HANDLING = 0.2  # seconds
EXIT_GRACE_EXCEEDED = 6

State = Callable[[Deployment, ExitStack], Process]


def idle(deployment: Deployment, faults: ExitStack) -> Process:
    worker = deployment.worker()
    worker.wait_for_line("Worker started")
    return worker


def in_a_handler(deployment: Deployment, faults: ExitStack, *arguments: str) -> Process:
    deployment.publish([Job(number, "sleep", HANDLING) for number in range(8)])
    worker = deployment.worker("--fetch-size", "6", *arguments)
    deployment.wait_for(BEGUN, count=2)
    return worker


def in_handlers_of_a_pool(deployment: Deployment, faults: ExitStack) -> Process:
    return in_a_handler(deployment, faults, "--concurrency", "3")


def in_an_async_handler(deployment: Deployment, faults: ExitStack) -> Process:
    deployment.publish([AsyncJob(number, HANDLING) for number in range(8)])
    worker = deployment.worker("--concurrency", "2", "--fetch-size", "6")
    deployment.wait_for(BEGUN, count=2)
    return worker


def between_retries(deployment: Deployment, faults: ExitStack) -> Process:
    deployment.publish([Job(0)])
    deployment.publish([Job(1)], [DelayStamp(3_000)])
    worker = deployment.worker()
    deployment.wait_for(DONE, 0)
    return worker


def behind_a_locked_database(deployment: Deployment, faults: ExitStack) -> Process:
    deployment.publish([Job(0, "sleep", HANDLING), Job(1)])
    worker = deployment.worker("--fetch-size", "1")
    deployment.wait_for(BEGUN, 0)
    faults.enter_context(write_lock(deployment.database))
    deployment.wait_for(DONE, 0)
    return worker


def in_back_off(deployment: Deployment, faults: ExitStack) -> Process:
    """The database is away: a folder stands in its place."""
    deployment.publish([Job(0)])
    deployment.messenger.close()
    aside = deployment.folder / "aside"
    aside.mkdir()
    for file in deployment.folder.glob("bus.db*"):
        file.rename(aside / file.name)
    deployment.database.mkdir()
    faults.callback(bring_back, deployment)
    worker = deployment.worker()
    worker.wait_for_line("bus.db")
    return worker


def bring_back(deployment: Deployment) -> None:
    deployment.database.rmdir()
    for file in (deployment.folder / "aside").iterdir():
        target = deployment.folder / file.name
        if target.is_dir():
            shutil.rmtree(target)
        file.rename(target)


def at_its_first_contact(deployment: Deployment, faults: ExitStack) -> Process:
    deployment.publish([Job(number, "sleep", 0.01) for number in range(50)])
    worker = deployment.worker()
    worker.wait_for_line("Worker started")
    return worker


STATES = (
    idle,
    in_a_handler,
    in_handlers_of_a_pool,
    in_an_async_handler,
    between_retries,
    behind_a_locked_database,
    in_back_off,
    at_its_first_contact,
)


def cases() -> Iterator[tuple[State, signal.Signals]]:
    for state in STATES:
        for number in (signal.SIGTERM, signal.SIGINT):
            yield state, number


@pytest.mark.parametrize("repetition", SIGNAL_REPETITIONS)
@pytest.mark.parametrize(
    ("state", "number"), [pytest.param(*each, id=f"{each[0].__name__}-{each[1].name}") for each in cases()]
)
def test_a_signal_ends_a_worker_in_time_and_loses_nothing(
    state: State, number: signal.Signals, repetition: int, deployment: Deployment, figures: Figures
) -> None:
    with ExitStack() as faults:
        worker = state(deployment, faults)
        worker.send(number)
        started = time.monotonic()
        code = worker.wait(GRACE)
        seconds = time.monotonic() - started

    assert code == 0, worker.output
    deployment.drain()
    totals = deployment.totals()
    figures.add(f"R13 {number.name} in {len(STATES)} states", totals, exits=1, exit_after=seconds)
    assert seconds < BOUND
    assert totals.lost == totals.unexpected == totals.in_failure_transport == 0
    # While somebody else writes, what was handled cannot be settled: it is delivered again.
    assert totals.repeats <= (1 if state is behind_a_locked_database else 0)


def test_what_a_stopped_worker_had_fetched_can_be_claimed_at_once(deployment: Deployment, figures: Figures) -> None:
    worker = in_a_handler(deployment, ExitStack())
    wait_until(lambda: deployment.counts().in_flight == 6, "the worker holds more than it handles")
    worker.send(signal.SIGTERM)
    assert worker.wait(GRACE) == 0
    left = time.monotonic()
    given_back = deployment.transport.get(100)
    seconds = time.monotonic() - left

    figures.add("R13 prefetched messages of a stopped worker", claimed=len(given_back), claimed_after=seconds)
    handled = deployment.journal.count(DONE)
    assert handled < 8
    assert len(given_back) == 8 - handled
    assert [claim_of(each) for each in given_back] == [1] * len(given_back), "they count as never delivered"
    assert seconds < 1.0
    deployment.transport.close()
    deployment.drain()
    assert deployment.totals().repeats == deployment.totals().lost == 0


def test_what_a_stopped_worker_had_fetched_can_be_claimed_while_it_still_handles_a_message(
    deployment: Deployment, figures: Figures
) -> None:
    # A worker that begins fetches one message alone.
    deployment.publish([Job(0), Job(1, "sleep", 3.0), *(Job(number) for number in range(2, 5))])
    worker = deployment.worker("--fetch-size", "4")
    deployment.wait_for(BEGUN, 1)
    wait_until(lambda: deployment.counts().in_flight == 4, "the worker holds all of them")
    worker.send(signal.SIGTERM)
    stopped = time.monotonic()
    given_back: list[Envelope] = []

    def all_came() -> bool:
        given_back.extend(deployment.transport.get(100))
        return len(given_back) == 3

    wait_until(all_came, "what was not begun can be claimed")
    figures.add("R13 prefetched messages of a worker that still handles", claimed_after=time.monotonic() - stopped)
    assert deployment.journal.count(DONE) == 1, "the handler still runs"
    assert [claim_of(each) for each in given_back] == [1] * 3
    assert worker.wait(GRACE) == 0
    deployment.transport.close()
    deployment.drain()
    assert deployment.totals().repeats == deployment.totals().lost == 0


def claim_of(envelope: Envelope) -> int:
    stamp = envelope.last(ClaimStamp)
    assert stamp is not None
    return stamp.claim.deliveries


def test_a_handler_that_never_returns_ends_with_the_grace_and_its_message_comes_back(deployment: Deployment) -> None:
    deployment.publish([Job(0), Job(1, "never return"), Job(2)])
    worker = deployment.worker("--shutdown-timeout", "1s")
    deployment.wait_for(BEGUN, 1)
    worker.send(signal.SIGTERM)
    assert worker.wait(GRACE) == EXIT_GRACE_EXCEEDED
    assert "is not finished" in worker.output
    assert deployment.counts().in_flight == 0
    assert {message_of(each).number for each in deployment.transport.get(1)} == {1}
    assert deployment.journal.effects().keys() <= {0, 2}


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_worker_at_once_and_its_message_comes_back(
    second: signal.Signals, deployment: Deployment
) -> None:
    deployment.publish([Job(0), Job(1, "never return"), Job(2)])
    worker = deployment.worker("--shutdown-timeout", "1h")
    deployment.wait_for(BEGUN, 1)
    worker.send(signal.SIGTERM)
    worker.wait_for_line("SIGTERM received")
    wait_until(lambda: send_again(worker, second), "the second signal is taken for one", every=0.25)
    assert worker.wait(GRACE) == EXIT_GRACE_EXCEEDED
    other = deployment.worker()
    deployment.wait_for(BEGUN, 1, count=2)
    other.kill()
    assert deployment.journal.effects()[0] == 1


def send_again(worker: Process, number: signal.Signals) -> bool:
    # A second signal within a second is taken for the first one, which often comes twice.
    worker.send(number)
    return not worker.alive


def message_of(envelope: Envelope) -> Job:
    assert isinstance(envelope.message, Job)
    return envelope.message
