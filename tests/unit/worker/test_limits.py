from __future__ import annotations

import pytest

from bus.envelope import Envelope
from bus.errors import ConfigurationError
from bus.events import Events, MessageSettled, Outcome, WorkerIdle, WorkerStarted
from bus.limits import Limits, limit_memory, parse_size, resident_memory
from bus.testing.clock import FakeClock


class RecordingWorker:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.allowed: int | None = None

    def stop(self, reason: str) -> None:
        self.reasons.append(reason)

    def allow(self, messages: int) -> None:
        self.allowed = messages


def settled(outcome: Outcome = "handled") -> MessageSettled:
    return MessageSettled(Envelope("message"), "async", outcome)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def worker() -> RecordingWorker:
    return RecordingWorker()


def test_the_message_limit_is_what_the_worker_may_begin(worker: RecordingWorker, events: Events):
    Limits(messages=10).watch(worker, events)

    assert worker.allowed == 10


@pytest.mark.parametrize("outcome", ["retried", "failed", "parked", "discarded"])
def test_an_attempt_that_failed_counts_for_the_failure_limit(worker, events, outcome):
    Limits(failures=2).watch(worker, events)

    events.emit(settled(outcome))
    assert worker.reasons == []
    events.emit(settled(outcome))

    assert worker.reasons == ["failure limit of 2 reached"]


@pytest.mark.parametrize("outcome", ["handled", "postponed"])
def test_what_did_not_fail_does_not_count_for_the_failure_limit(worker, events, outcome):
    Limits(failures=1).watch(worker, events)

    events.emit(settled(outcome))

    assert worker.reasons == []


@pytest.mark.parametrize("event", [WorkerIdle(), settled()], ids=["idle", "busy"])
def test_the_time_limit_counts_from_the_start_of_the_worker(worker, events, event):
    clock = FakeClock()
    Limits(seconds=60).watch(worker, events, clock)
    clock.advance(1000)
    events.emit(WorkerStarted(("async",)))

    clock.advance(59.9)
    events.emit(event)
    assert worker.reasons == []
    clock.advance(0.1)
    events.emit(event)

    assert worker.reasons == ["time limit of 60 s reached"]


def test_the_time_limit_does_not_mind_a_clock_that_is_set(worker, events):
    clock = FakeClock()
    Limits(seconds=60).watch(worker, events, clock)
    events.emit(WorkerStarted(("async",)))

    clock.set(clock.now() + 3600)
    events.emit(WorkerIdle())

    assert worker.reasons == []


def test_the_memory_limit_stops_the_worker_between_messages(worker, events):
    used = [999]
    clock = FakeClock()
    limit_memory(worker, events, 1000, clock, lambda: used[0])

    events.emit(settled())
    assert worker.reasons == []
    used[0] = 1001
    clock.advance(1)
    events.emit(settled())

    assert worker.reasons == ["memory limit of 1000 bytes reached (1001 in use)"]


def test_the_memory_is_not_looked_at_for_every_message(worker, events):
    looks = []
    limit_memory(worker, events, 1000, FakeClock(), lambda: looks.append(1) or 0)

    for _ in range(100):
        events.emit(settled())

    assert len(looks) == 1


def test_the_resident_memory_grows_with_what_is_held():
    before = resident_memory()
    held = bytearray(b"x" * 64 * 1024 * 1024)

    assert 32 * 1024 * 1024 < resident_memory() - before < 128 * 1024 * 1024
    assert len(held) > 0


def test_without_limits_nothing_is_watched(worker, events):
    Limits().watch(worker, events)

    events.emit(settled("failed"))
    events.emit(WorkerIdle())

    assert (worker.reasons, worker.allowed) == ([], None)


def test_every_limit_must_be_more_than_0():
    with pytest.raises(ConfigurationError) as raised:
        Limits(messages=0, failures=-1, seconds=0.0, memory=1)

    assert raised.value.problems == (
        'The limit "messages" is 0; it must be more than 0.',
        'The limit "failures" is -1; it must be more than 0.',
        'The limit "seconds" is 0.0; it must be more than 0.',
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128M", 128 * 1024**2),
        ("128m", 128 * 1024**2),
        (" 64 K ", 64 * 1024),
        ("1.5G", 3 * 512 * 1024**2),
        ("2GB", 2 * 1024**3),
        ("2GiB", 2 * 1024**3),
        ("4096", 4096),
    ],
)
def test_a_size_is_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "0", "0.1", "12 apples", "1e9", "1,5G", "nan", "²M"])
def test_a_size_that_cannot_be_read_is_refused(text):
    with pytest.raises(ConfigurationError, match="cannot be read; write it as"):
        parse_size(text)
