from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bus import AmqpStamp, MemoryStore, SendRefused, SendUnknown, TransportError
from bus.outbox.relay import Outbox
from bus.store.base import Store
from bus.store.claims import Claims
from bus.testing.clock import FakeClock
from bus.transports.base import Outgoing, Sent
from bus.transports.sql.connection import SqliteDatabase


class Broker:
    """A carrier that keeps what it gets, and fails for what it is told to."""

    name = "broker"

    def __init__(self) -> None:
        self.got: list[Outgoing] = []
        self.failing: dict[str, TransportError] = {}
        self.is_down = False
        self.wait: Callable[[], object] = lambda: None

    def deliver(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        self.wait()
        if self.is_down:
            raise TransportError("the broker is down")
        results: list[Sent | TransportError] = []
        for outgoing in batch:
            error = self.failing.get(outgoing.message_id)
            if error is None:
                self.got.append(outgoing)
            results.append(error or Sent())
        return results

    @property
    def ids(self) -> list[str]:
        return [outgoing.message_id for outgoing in self.got]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


Make = Callable[..., Outbox]


@pytest.fixture
def make(database: Path, broker: Broker, clock: FakeClock) -> Iterator[Make]:
    made: list[Outbox] = []
    shared = MemoryStore(clock)

    def make(carrier: Broker = broker, store: Store = shared, name: str = "broker") -> Outbox:
        outbox = Outbox(SqliteDatabase(database), {name: carrier}, lambda: Claims(store), clock)
        outbox.start = lambda: None  # type: ignore[method-assign]  # the tests sweep themselves
        made.append(outbox)
        return outbox

    yield make
    for outbox in made:
        outbox.close()


def message(number: int, key: str | None = None, **more: Any) -> Outgoing:
    return Outgoing(f"m-{number}", b"body", {"type": "x"}, partition_key=key, **more)


def write(database: Path, outbox: Outbox, *messages: Outgoing, transport: str = "broker") -> list[Any]:
    """Write rows and commit them, as a handler's transaction does, without relaying them."""
    with closing(sqlite3.connect(database)) as connection, connection:
        return outbox.insert(connection.cursor(), {transport: messages})


def rows(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row for (row,) in connection.execute("SELECT message_id FROM messenger_outbox ORDER BY id")]


def test_the_writer_sends_right_after_its_commit(make: Make, database: Path, broker: Broker) -> None:
    outbox = make()
    waiting = write(database, outbox, message(1), message(2))

    outbox.relay(waiting)

    assert broker.ids == ["m-1", "m-2"]
    assert rows(database) == []


def test_a_message_comes_out_as_it_went_in(make: Make, database: Path, broker: Broker, clock: FakeClock) -> None:
    outbox = make()
    given = Outgoing("m-1", b"\0\xff raw", {"type": "x", "ä": "\n"}, delay_ms=0, origin="queue", attempt=3, priority=-5)
    write(database, outbox, given)
    clock.advance(15)

    outbox.sweep()

    assert broker.got == [given]


def test_what_says_how_rabbitmq_gets_a_message_is_kept_too(
    make: Make, database: Path, broker: Broker, clock: FakeClock
) -> None:
    sent = message(1, native=AmqpStamp("order.eu", {"app_id": "shop", "headers": {"x-own": "v"}}))
    write(database, make(), sent)
    clock.advance(60)

    make().sweep()

    assert broker.got == [sent]


def test_a_sweep_leaves_fresh_rows_to_their_writer(
    make: Make, database: Path, broker: Broker, clock: FakeClock
) -> None:
    write(database, make(), message(1))
    another = make()

    clock.advance(14.9)
    another.sweep()
    assert broker.ids == []

    clock.advance(0.2)
    another.sweep()
    assert broker.ids == ["m-1"]
    assert rows(database) == []


def test_a_delay_counts_from_the_write(make: Make, database: Path, broker: Broker, clock: FakeClock) -> None:
    outbox = make()
    write(database, outbox, message(1, delay_ms=60_000), message(2, delay_ms=5_000))
    clock.advance(20)

    outbox.sweep()

    assert [outgoing.delay_ms for outgoing in broker.got] == [40_000, 0]


def test_what_could_not_be_sent_waits_longer_each_time(
    make: Make, database: Path, broker: Broker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = make()
    broker.is_down = True
    outbox.relay(write(database, outbox, message(1)))
    assert rows(database) == ["m-1"]

    waits = []
    for _ in range(8):
        seconds = 0
        tries = len(caplog.records)
        while len(caplog.records) == tries and seconds < 1000:
            clock.advance(5)
            seconds += 5
            outbox.sweep()
        waits.append(seconds)
    broker.is_down = False
    clock.advance(300)
    outbox.sweep()

    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert broker.ids == ["m-1"]


def test_a_refused_message_stays_needs_a_person_and_holds_up_nobody(
    make: Make, database: Path, broker: Broker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = make()
    broker.failing["m-1"] = SendRefused("too large")

    outbox.relay(write(database, outbox, message(1), message(2)))

    assert broker.ids == ["m-2"]
    assert rows(database) == ["m-1"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_what_was_perhaps_sent_is_sent_again_with_the_same_id(
    make: Make, database: Path, broker: Broker, clock: FakeClock
) -> None:
    outbox = make()
    broker.failing["m-1"] = SendUnknown("no answer")
    outbox.relay(write(database, outbox, message(1)))
    broker.failing.clear()
    clock.advance(5)

    outbox.sweep()

    assert broker.ids == ["m-1"]


def test_a_row_that_is_committed_later_than_its_followers_is_found(
    make: Make, database: Path, broker: Broker, clock: FakeClock
) -> None:
    """As when two transactions commit in another order than they began."""
    outbox = make()
    write(database, outbox, message(1))
    write(database, outbox, message(2))
    with closing(sqlite3.connect(database)) as connection, connection:
        row = connection.execute("SELECT * FROM messenger_outbox WHERE message_id = 'm-1'").fetchone()
        connection.execute("DELETE FROM messenger_outbox WHERE message_id = 'm-1'")
    clock.advance(15)
    outbox.sweep()
    assert broker.ids == ["m-2"]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"INSERT INTO messenger_outbox VALUES ({', '.join('?' * len(row))})", row)

    outbox.sweep()

    assert broker.ids == ["m-2", "m-1"]
    assert rows(database) == []


def test_two_relays_at_once_send_each_row_once(make: Make, database: Path, broker: Broker, clock: FakeClock) -> None:
    relays = [make(), make()]
    write(database, relays[0], *(message(number) for number in range(500)))
    clock.advance(15)
    threads = [threading.Thread(target=relay.sweep) for relay in relays]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for relay in relays:  # who came too late for a row has nothing left, or takes what is
        relay.sweep()

    assert sorted(broker.ids) == sorted(f"m-{number}" for number in range(500))
    assert rows(database) == []


def test_a_relay_that_died_before_it_removed_a_row_leaves_it_to_another(
    make: Make, database: Path, broker: Broker, clock: FakeClock
) -> None:
    dying = make()
    write(database, dying, message(1))
    clock.advance(15)

    def die() -> None:
        raise SystemExit

    broker.wait = die
    with pytest.raises(SystemExit):
        dying.sweep()
    broker.wait = lambda: None
    another = make()
    another.sweep()
    assert broker.ids == [], "the row is claimed"

    clock.advance(15)
    another.sweep()

    assert broker.ids == ["m-1"]


def test_rows_of_a_transport_that_is_not_here_are_left_and_said_once(
    make: Make, database: Path, broker: Broker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = make()
    write(database, outbox, message(1), transport="gone")
    clock.advance(15)

    outbox.sweep()
    outbox.sweep()

    assert rows(database) == ["m-1"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert '"gone"' in caplog.text


def test_a_database_without_an_outbox_is_left_alone(make: Make, database: Path) -> None:
    make().sweep()

    assert not database.exists()


# --- messages with a key ---


def test_messages_with_a_key_leave_in_their_order(make: Make, database: Path, broker: Broker) -> None:
    outbox = make()
    write(database, outbox, *(message(number, key=f"k-{number % 3}") for number in range(9)))

    outbox.sweep()

    for key in range(3):
        assert [each for each in broker.ids if int(each[2:]) % 3 == key] == [f"m-{key}", f"m-{key + 3}", f"m-{key + 6}"]
    assert rows(database) == []


def test_a_key_whose_message_fails_waits_and_the_others_do_not(
    make: Make, database: Path, broker: Broker, clock: FakeClock
) -> None:
    outbox = make()
    broker.failing["m-0"] = TransportError("not now")
    write(database, outbox, *(message(number, key=f"k-{number % 2}") for number in range(6)))

    outbox.sweep()
    assert broker.ids == ["m-1", "m-3", "m-5"]

    broker.failing.clear()
    clock.advance(5)
    outbox.sweep()
    assert broker.ids[3:] == ["m-0", "m-2", "m-4"]


def test_only_the_owner_sends_messages_with_a_key(make: Make, database: Path, broker: Broker) -> None:
    owner, other = make(), make()
    write(database, owner, message(1, key="k"))
    owner.sweep()
    assert broker.ids == ["m-1"]

    other.relay(write(database, other, message(2, key="k")))
    other.sweep()
    assert broker.ids == ["m-1"]

    owner.sweep()
    assert broker.ids == ["m-1", "m-2"]


def test_when_the_owner_ends_another_one_follows(make: Make, database: Path, broker: Broker) -> None:
    owner, other = make(), make()
    write(database, owner, message(1, key="k"))
    owner.sweep()
    owner._give_up_ownership()
    write(database, other, message(2, key="k"))

    other.sweep()

    assert broker.ids == ["m-1", "m-2"]
