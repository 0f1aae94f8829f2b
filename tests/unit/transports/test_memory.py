from __future__ import annotations

import threading

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance.traffic import bodies, outgoing
from bus.transports.base import Ack, Discard, Requeue
from bus.transports.memory import MemoryDriver


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> MemoryDriver:
    return MemoryDriver("orders", clock)


def test_a_test_can_see_what_was_sent_acknowledged_and_rejected(driver: MemoryDriver) -> None:
    batch = [outgoing(b"good"), outgoing(b"bad")]
    driver.send(batch)
    good, bad = driver.get(2)

    driver.settle([Ack(good.claim), Discard(bad.claim)])

    assert driver.sent == batch
    assert driver.acknowledged == [good]
    assert driver.rejected == [bad]


def test_a_listener_is_woken_by_what_is_there_already(driver: MemoryDriver) -> None:
    driver.send([outgoing()])
    woken = threading.Event()

    driver.on_arrival(woken.set)

    assert woken.is_set()


def test_a_listener_is_woken_by_a_requeued_message_and_not_by_an_acknowledgement(driver: MemoryDriver) -> None:
    driver.send([outgoing(b"a"), outgoing(b"b")])
    first, second = driver.get(2)
    woken = threading.Event()
    driver.on_arrival(woken.set)

    driver.settle([Ack(first.claim)])
    assert not woken.is_set()
    driver.settle([Requeue(second.claim, outgoing(b"b"))])
    assert woken.is_set()


def test_a_listener_is_woken_when_a_delayed_message_is_due(clock: FakeClock) -> None:
    driver = MemoryDriver("orders", clock)
    woken = threading.Event()
    driver.on_arrival(woken.set)

    driver.send([outgoing(b"long", delay_ms=3_600_000), outgoing(b"short", delay_ms=30)])
    assert not woken.is_set()
    clock.advance(0.03)

    assert woken.wait(5)
    assert bodies(driver.get(10)) == [b"short"]
    driver.close()


def test_taking_a_message_out_of_order_leaves_the_others_in_theirs(driver: MemoryDriver) -> None:
    driver.send([outgoing(str(number).encode()) for number in range(4)])

    assert driver.take(2) is not None

    assert bodies(driver.get(10)) == [b"0", b"2", b"3"]


def test_a_message_that_was_taken_before_it_was_due_is_not_delivered_then(
    driver: MemoryDriver, clock: FakeClock
) -> None:
    driver.send([outgoing(b"later", delay_ms=1000)])
    assert driver.take(1) is not None

    clock.advance(2)

    assert list(driver.get(10)) == []
