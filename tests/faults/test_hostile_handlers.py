"""Handlers that leave, interrupt, fork or cannot even be printed: failed attempts, and the worker goes on."""

from __future__ import annotations

import pytest

from bus import ErrorDetailsStamp
from tests.faults.application import Job
from tests.faults.deployment import Deployment
from tests.faults.ledger import BEGUN

ERRORS = {
    "exit": "SystemExit",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise GeneratorExit": "GeneratorExit",
    "raise hostile text": "tests.faults.behaviours._HostileTextError",
    "raise endless text": "tests.faults.behaviours._EndlessTextError",
    "raise a group": "ExceptionGroup",
    "fork and return in the child": "ValueError",
}
HOSTILE = 3
ATTEMPTS = 4


@pytest.mark.parametrize(
    ("behaviour", "concurrency"),
    [*((behaviour, 1) for behaviour in ERRORS), ("exit", 4), ("fork and return in the child", 4)],
)
def test_a_hostile_handler_is_a_failed_attempt(behaviour: str, concurrency: int, deployment: Deployment) -> None:
    deployment.publish([Job(number, behaviour if number == HOSTILE else "nothing") for number in range(8)])
    worker = deployment.worker("--concurrency", str(concurrency))
    deployment.wait_until_empty(worker)
    worker.stop()

    (failed,) = deployment.failed_envelopes()
    assert failed.message == Job(HOSTILE, behaviour)
    details = failed.last(ErrorDetailsStamp)
    assert details is not None
    assert details.exception_class == ERRORS[behaviour]
    assert deployment.journal.count(BEGUN, HOSTILE) == ATTEMPTS
    assert deployment.journal.effects().keys() == set(range(8)) - ({HOSTILE} if "child" not in behaviour else set())
    assert set(deployment.journal.effects().values()) <= {1, ATTEMPTS}
    assert len({event.pid for event in deployment.journal.of(BEGUN)}) == 1, "only the worker itself handles messages"
