"""Ordered mode on SQLite: what waits in place, what goes on meanwhile, and who reads which partition."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bus import Envelope, Messenger, PartitionKeyStamp, PriorityStamp, RetryPolicy, UnrecoverableError, WorkerOptions
from bus.config.schema import MessengerConfig, TransportConfig
from bus.errors import ConnectionLostError
from bus.messages import message
from bus.stamps import ClaimStamp
from bus.transports.base import Claim
from bus.transports.sql.partitions import FIRST_LANE, lane_of
from bus.transports.transport import Transport

DEADLINE = 20.0  # seconds
NEVER = 300_000  # milliseconds; longer than any test, and within the time for retries in place


@message("test.ordering.step")
@dataclass(frozen=True)
class Step:
    key: str
    number: int


class Application:
    """A messenger on a SQLite file, whose handler fails where a test says so."""

    def __init__(self, folder: Path, retry: RetryPolicy, options: dict[str, object]) -> None:
        self.handled: list[tuple[str, int]] = []
        self.attempts: list[tuple[str, int]] = []
        self.fails: Callable[[Step], BaseException | None] = lambda step: None
        self.database = folder / "bus.db"
        dsn = f"sqlite:///{self.database}?queue_name="
        self.messenger = Messenger(
            MessengerConfig(
                transports={
                    "async": TransportConfig(dsn=f"{dsn}async", options=options, retry=retry),
                    "failed": TransportConfig(dsn=f"{dsn}failed"),
                },
                routing={"test.ordering.step": ("async",)},
                failure_transport="failed",
            ),
            handlers=[self._handle],
        )
        self.transport = self.messenger.transport("async")

    def _handle(self, step: Step) -> None:
        self.attempts.append((step.key, step.number))
        error = self.fails(step)
        if error is not None:
            raise error
        self.handled.append((step.key, step.number))

    def send(self, key: str, *numbers: int, priority: int = 0) -> None:
        for number in numbers:
            self.messenger.dispatch(Step(key, number), [PartitionKeyStamp(key), PriorityStamp(priority)])

    @contextmanager
    def consuming(self, **options: object) -> Iterator[None]:
        worker = self.messenger.worker(["async"], WorkerOptions(**options))  # type: ignore[arg-type]
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            worker.stop()
            thread.join(DEADLINE)
        assert not thread.is_alive()

    def consume_all(self) -> None:
        self.messenger.worker(["async"], WorkerOptions(stop_when_empty=True)).run()

    def lanes(self) -> list[int]:
        with closing(sqlite3.connect(self.database)) as connection:
            return [lane for (lane,) in connection.execute("SELECT lane FROM messenger_messages ORDER BY id")]


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Callable[..., Application]]:
    made: list[Application] = []

    def make(retry: RetryPolicy | None = None, **options: object) -> Application:
        made.append(Application(tmp_path, retry or RetryPolicy(delay=NEVER), options or {"ordered": True}))
        return made[-1]

    yield make
    for each in made:
        each.messenger.close()


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.01)


def claims_of(envelopes: Sequence[Envelope]) -> list[Claim]:
    return [each.last(ClaimStamp).claim for each in envelopes]  # type: ignore[union-attr]


def got_by(transport: Transport) -> set[int | None]:
    """Return the partitions that a reader gets messages of, and give those messages back by closing."""
    return {claim.partition for claim in claims_of(transport.get(1000))}


def two_keys(partitions: int = 10) -> tuple[str, str]:
    """Return keys of two partitions."""
    first = "a"
    return first, next(key for key in "bcdefghijk" if lane_of(key, partitions) != lane_of(first, partitions))


def test_a_keyed_message_stands_in_the_lane_of_its_partition_whatever_its_priority(application):
    app = application(partitions=4)
    app.send("a", 1, priority=9)
    app.send("a", 2)
    app.messenger.dispatch(Step("none", 3), [PriorityStamp(9)])

    # Beside each other in one column: priorities from -255 to 255, partitions from 1000 on.
    assert app.lanes() == [lane_of("a", 4), lane_of("a", 4), -9]
    assert lane_of("a", 4) == FIRST_LANE + 0xE8B7BE43 % 4  # the CRC-32 of "a", as PHP's crc32 gives it


def test_without_partitions_a_keyed_message_keeps_its_priority(application):
    app = application(auto_setup=True)
    app.send("a", 1, priority=9)

    assert app.lanes() == [-9]


def test_a_failing_message_holds_back_its_key_and_no_other(application):
    app = application()
    failing, other = two_keys()
    app.fails = lambda step: ValueError("not now") if step == Step(failing, 1) else None
    app.send(failing, 1, 2, 3)
    app.send(other, 1, 2, 3)

    with app.consuming():
        eventually(lambda: len(app.handled) == 3, "the other key is handled")
        assert app.handled == [(other, 1), (other, 2), (other, 3)]


def test_a_failing_message_is_tried_again_before_its_followers(application):
    app = application(RetryPolicy(delay=10, multiplier=1))
    app.fails = lambda step: ValueError("not yet") if app.attempts.count((step.key, step.number)) < 3 else None
    app.send("a", 1, 2)
    app.consume_all()

    assert app.attempts == [("a", 1)] * 3 + [("a", 2)] * 3
    assert app.handled == [("a", 1), ("a", 2)]


def test_a_message_that_is_given_up_lets_its_followers_go_on(application):
    app = application(RetryPolicy(delay=1, max_retries=2))
    app.fails = lambda step: ValueError("never") if step.number == 1 else None
    app.send("a", 1, 2)
    app.consume_all()

    assert app.attempts == [("a", 1)] * 3 + [("a", 2)]
    assert [each.message for each in app.messenger.transport("failed").peek(10)] == [Step("a", 1)]


def test_a_message_whose_failure_transport_is_unreachable_waits_in_place(application, monkeypatch):
    app = application()
    failed = app.messenger.transport("failed")
    refusals: list[object] = []

    def refuse(batch: object) -> None:
        refusals.append(batch)
        raise ConnectionLostError("it is away")

    app.fails = lambda step: UnrecoverableError("never") if step.number == 1 else None
    app.send("a", 1, 2)
    with monkeypatch.context() as patched, app.consuming():
        patched.setattr(failed, "send_all", refuse)
        eventually(lambda: len(refusals) >= 2, "storing it is tried again")
        assert app.handled == []
        patched.undo()
        eventually(lambda: app.handled == [("a", 2)], "the follower goes on")

    assert app.attempts == [("a", 1), ("a", 2)]
    assert [each.message for each in failed.peek(10)] == [Step("a", 1)]


def test_without_ordered_a_retry_leaves_its_lane(application):
    app = application(partitions=4)
    app.fails = lambda step: ValueError("not now") if step.number == 1 else None
    app.send("a", 1, 2)
    app.consume_all()

    assert app.handled == [("a", 2)]
    assert app.transport.counts().delayed == 1


def test_stop_gives_back_what_waits_in_place_uncounted_and_in_order(application):
    app = application()
    app.fails = lambda step: ValueError("not now")
    app.send("a", 1, 2)
    with app.consuming():
        eventually(lambda: app.attempts and not app.messenger.transport("async").unsettled, "it was tried")

    got = app.transport.get(10)
    assert [each.message.number for each in got] == [1, 2]
    assert [claim.deliveries for claim in claims_of(got)] == [1, 1]


def test_a_full_ordered_window_pauses_its_partition_and_only_it(application):
    app = application(ordered=True, ordered_window=5)
    failing, other = two_keys()
    app.fails = lambda step: ValueError("not now") if step.key == failing else None
    app.send(failing, *range(50))
    app.send(other, *range(50))

    with app.consuming(fetch_size=4):
        eventually(lambda: len(app.handled) == 50, "the other partition is handled")
        eventually(lambda: app.transport.counts().in_flight >= 6, "followers pile up")
        # The one that failed, five behind it, and what one fetch brought beyond them.
        assert app.transport.counts().in_flight <= 1 + 5 + 4
        assert app.transport.counts().ready >= 40


def test_a_new_reader_gets_its_share_of_the_partitions(application):
    first, second = application(partitions=10), application(partitions=10)
    for key in range(200):
        first.send(f"key-{key}", 1)
    everything = got_by(first.transport)
    assert everything == set(range(10))

    shares: list[set[int | None]] = [set(), set()]

    def are_fair() -> bool:
        shares[1] |= got_by(second.transport)
        return len(shares[1]) == 5

    eventually(are_fair, "the second one reads half of the partitions")
    assert {claim.partition for claim in claims_of(first.transport.get(1000))} <= everything - shares[1]


def test_a_partition_of_which_something_is_begun_is_not_given_away(application):
    first, second = application(partitions=2), application(partitions=2)
    keys = two_keys(2)
    for key in keys:
        first.send(key, 1, 2)
    held = first.transport.get(10)
    begun = [each for each in held if each.message.number == 1]
    assert all(claim.begin() for claim in claims_of(begun))

    second.transport.get(0)
    withdrawn = [claim for claim in claims_of(held) if not claim.begun]
    eventually(lambda: any(claim.withdrawn for claim in withdrawn), "the surplus is given back")
    assert second.transport.get(10) == []

    for each in begun:
        first.transport.ack(each)
    first.transport.flush()
    got: list[Envelope] = []
    eventually(lambda: got.extend(second.transport.get(10)) or got, "the other one has it")
    assert [each.message.number for each in got] == [2]
    assert claims_of(got)[0].deliveries == 1


def test_a_closed_reader_leaves_its_partitions_to_others(application):
    first, second = application(partitions=4), application(partitions=4)
    first.send("a", 1)
    assert len(first.transport.get(1)) == 1
    first.transport.close()

    got: list[Envelope] = []
    eventually(lambda: got.extend(second.transport.get(10)) or got, "the other one reads it")
    assert [each.message for each in got] == [Step("a", 1)]


def test_partitions_are_read_by_a_worker_whose_options_name_none(application):
    sender, reader = application(partitions=4), application(auto_setup=True)
    sender.send("a", 1, 2)
    reader.consume_all()

    assert reader.handled == [("a", 1), ("a", 2)]
