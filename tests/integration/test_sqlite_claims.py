"""Claims on SQLite: nobody has a message twice, and nothing stays with the dead."""

from __future__ import annotations

import logging
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.base import Ack, Claim, Park, Requeue
from bus.transports.sql import SqlDriver

Start = Callable[..., Any]


def locks_of(database: Path) -> list[Path]:
    return sorted(Path(f"{database}-claims").iterdir())


def test_no_message_is_claimed_twice_by_8_processes(driver: SqlDriver, start: Start) -> None:
    rows = 20_000
    for _ in range(rows // 1000):
        driver.send([outgoing() for _ in range(1000)])
    workers = [start("consume") for _ in range(8)]
    assert [worker.says() for worker in workers] == ["ready"] * 8

    for worker in workers:
        worker.go_on()
    answers = [worker.says() for worker in workers]

    counted = Counter(row for handled, _ in answers for row in handled)
    assert [row for row, times in counted.items() if times > 1] == []
    assert len(counted) == rows
    assert sum(lost for _, lost in answers) == 0
    assert sum(1 for handled, _ in answers if handled) > 1, "the processes did not compete"


def test_what_a_killed_process_held_comes_back(
    driver: SqlDriver, start: Start, clock: FakeClock, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver.send([outgoing(b"1"), outgoing(b"2")])
    worker = start("hold", 2)
    assert worker.says() == [1, 2]
    assert list(driver.get(10)) == []

    worker.signal(signal.SIGKILL)
    clock.advance(5)

    assert {delivery.body: delivery.claim.deliveries for delivery in receive(driver, 2)} == {b"1": 2, b"2": 2}
    assert len(locks_of(database)) == 1, "the lock of the dead is removed, ours is there"
    assert [record.levelno for record in caplog.records if "went away" in record.message] == [logging.WARNING]


def test_recovered_messages_come_before_the_others(driver: SqlDriver, start: Start, clock: FakeClock) -> None:
    driver.send([outgoing(b"held")])
    clock.advance(60)
    driver.send([outgoing(b"waits")])
    clock.advance(60)
    worker = start("hold", 1)
    assert worker.says() == [1]
    worker.signal(signal.SIGKILL)

    assert bodies(receive(driver, 2)) == [b"held", b"waits"]


def test_dead_claims_are_looked_for_at_the_start_and_every_5_seconds(
    driver: SqlDriver, start: Start, clock: FakeClock
) -> None:
    assert list(driver.get(1)) == []
    driver.send([outgoing()])
    worker = start("hold", 1)
    assert worker.says() == [1]
    worker.signal(signal.SIGKILL)

    assert list(driver.get(1)) == []
    clock.advance(4.9)
    assert list(driver.get(1)) == []
    clock.advance(0.1)
    assert len(driver.get(1)) == 1


def test_a_stopped_process_keeps_what_it_holds(driver: SqlDriver, start: Start, clock: FakeClock) -> None:
    driver.send([outgoing()])
    worker = start("hold", 1)
    assert worker.says() == [1]
    worker.signal(signal.SIGSTOP)

    for _ in range(3):
        clock.advance(3600)
        assert list(driver.get(1)) == []


def test_a_process_that_ends_without_closing_lets_go(driver: SqlDriver, start: Start, clock: FakeClock) -> None:
    driver.send([outgoing()])
    worker = start("hold", 1)
    assert worker.says() == [1]

    worker.go_on()
    worker.process.wait(60)
    clock.advance(5)

    assert receive(driver, 1)[0].claim.deliveries == 2


def test_locks_of_the_dead_do_not_pile_up(driver: SqlDriver, start: Start, clock: FakeClock, database: Path) -> None:
    driver.send([outgoing()])
    for _ in range(3):
        worker = start("hold", 1)
        worker.says()
        worker.signal(signal.SIGKILL)

    assert len(receive(driver, 1)) == 1
    assert len(locks_of(database)) == 1
    driver.close()
    assert locks_of(database) == []


def test_a_parked_message_whose_taker_died_is_parked_again(driver: SqlDriver, clock: FakeClock, database: Path) -> None:
    driver.send([outgoing()])
    driver.settle([Park(receive(driver, 1)[0].claim, outgoing())])
    assert driver.take(1) is not None
    let_the_lock_go(driver, database)

    clock.advance(5)

    assert list(driver.get(10)) == []
    assert [each.state for each in driver.peek(10)] == ["parked"]


def let_the_lock_go(driver: SqlDriver, database: Path) -> None:
    """Make the claims look like those of a dead process."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE messenger_messages SET claim_token = 'dead'")
    connection.close()


def test_a_dead_worker_does_not_keep_a_message_from_being_taken(driver: SqlDriver, start: Start) -> None:
    driver.send([outgoing(b"wanted")])
    worker = start("hold", 1)
    assert worker.says() == [1]
    assert driver.take(1) is None

    worker.signal(signal.SIGKILL)

    taken = driver.take(1)
    assert taken is not None
    assert taken.claim.deliveries == 2


def test_two_drivers_of_one_process_leave_each_other_alone(
    open_sqlite: Callable[..., SqlDriver], clock: FakeClock
) -> None:
    one, other = open_sqlite(), open_sqlite()
    one.send([outgoing(b"1"), outgoing(b"2")])
    mine, others = one.get(1)[0], other.get(1)[0]

    for driver in (one, other):
        clock.advance(5)
        assert list(driver.get(10)) == []

    assert list(one.settle([Ack(others.claim)])) == [others.claim], "a claim belongs to the driver that made it"
    assert list(one.settle([Ack(mine.claim)])) == []
    assert list(other.settle([Ack(others.claim)])) == []


def test_a_token_from_a_row_is_never_used_as_a_path(driver: SqlDriver, database: Path) -> None:
    driver.send([outgoing()])
    receive(driver, 1)
    victim = database.with_name("victim.lock")
    victim.write_text("precious")
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE messenger_messages SET claim_token = '../victim'")
    connection.close()
    driver.close()

    assert receive(driver, 1)[0].claim.deliveries == 2
    assert victim.read_text() == "precious"


def steal(claim: Claim, database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE messenger_messages "
            "SET claim_token = NULL, delivered_at = NULL, available_at = created_at WHERE id = ?",
            (claim.transport_id,),
        )
    connection.close()


@pytest.mark.parametrize("kind", ["ack", "requeue", "park"])
def test_a_claim_whose_token_was_cleared_is_lost_and_touches_nothing(
    driver: SqlDriver, database: Path, kind: str
) -> None:
    driver.send([outgoing(b"before")])
    claim = receive(driver, 1)[0].claim
    steal(claim, database)
    settlement = {"ack": Ack(claim), "requeue": Requeue(claim, outgoing()), "park": Park(claim, outgoing())}[kind]

    assert list(driver.settle([settlement])) == [claim]
    assert not claim.begin()
    assert [(each.body, each.state) for each in driver.peek(10)] == [(b"before", "ready")]


def test_a_forked_child_neither_settles_nor_gives_back(driver: SqlDriver, start: Start) -> None:
    driver.send([outgoing() for _ in range(3)])

    child, all_begun, lost = start("fork", 3).says()

    assert child == 0, "the child settled, began or found something"
    assert all_begun
    assert lost == 0
    assert driver.counts().ready == 0
    assert driver.counts().in_flight == 0


def test_a_living_child_does_not_keep_what_its_dead_parent_held(
    driver: SqlDriver, start: Start, clock: FakeClock
) -> None:
    driver.send([outgoing(), outgoing()])
    parent = start("orphan", 2)
    assert parent.says() == [1, 2]
    parent.process.wait(60)

    clock.advance(5)

    assert len(receive(driver, 2)) == 2
