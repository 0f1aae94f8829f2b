"""What becomes of claims that were never settled, and of a driver that is closed."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance.features import DriverSuite, OpenDriver, requires
from bus.testing.conformance.traffic import bodies, eventually, outgoing, receive
from bus.transports.base import (
    Ack,
    Driver,
    GivesBack,
    Park,
    Requeue,
    Settlement,
)


class GivingBack(DriverSuite):
    """Closing, redelivery and fencing."""

    def test_a_message_that_was_not_begun_comes_back_uncounted(self, driver: Driver) -> None:
        driver.send([outgoing()])
        for _ in range(20):
            claim = receive(driver, 1)[0].claim
            assert claim.deliveries == 1
            driver.close()

    def test_a_message_that_was_begun_and_not_settled_comes_back_counted(self, driver: Driver) -> None:
        driver.send([outgoing()])
        for deliveries in (1, 2, 3):
            claim = receive(driver, 1)[0].claim
            assert claim.deliveries == deliveries
            assert claim.begin()
            driver.close()

    def test_a_message_at_rest_is_given_back_uncounted(self, driver: Driver) -> None:
        driver.send([outgoing()])
        claim = receive(driver, 1)[0].claim
        claim.begin()
        claim.rest()

        driver.close()

        assert receive(driver, 1)[0].claim.deliveries == 1

    @requires("ordered", "returns_in_place")
    def test_messages_that_are_given_back_keep_their_place(self, driver: Driver, clock: FakeClock) -> None:
        for body in (b"1", b"2", b"3", b"4"):
            driver.send([outgoing(body)])
            clock.advance(1)
        receive(driver, 2)

        driver.close()

        assert bodies(receive(driver, 4)) == [b"1", b"2", b"3", b"4"]

    def test_a_claim_that_was_given_back_cannot_begin(self, driver: Driver) -> None:
        driver.send([outgoing()])
        claim = receive(driver, 1)[0].claim

        driver.close()

        assert claim.withdrawn
        assert not claim.begin()

    def test_a_message_that_was_delivered_before_comes_alone(self, driver: Driver) -> None:
        driver.send([outgoing(b"suspect")])
        receive(driver, 1)[0].claim.begin()
        driver.close()
        driver.send([outgoing(b"innocent"), outgoing(b"innocent")])

        batches: list[list[bytes]] = []

        def all_are_there() -> bool:
            if batch := list(driver.get(10)):
                batches.append(bodies(batch))
            return sum(map(len, batches)) == 3

        eventually(all_are_there, "3 messages should have come")
        assert [b"suspect"] in batches

    @requires("shared")
    def test_what_a_closed_consumer_held_is_another_ones(self, open_driver: OpenDriver) -> None:
        first, second = open_driver(), open_driver()
        first.send([outgoing(b"begun"), outgoing(b"unbegun")])
        deliveries = receive(first, 2)
        deliveries[0].claim.begin()

        first.close()

        again = {delivery.body: delivery.claim.deliveries for delivery in receive(second, 2)}
        assert again == {b"begun": 2, b"unbegun": 1}

    @requires("shared")
    @pytest.mark.parametrize("late", ["ack", "requeue", "park"])
    def test_a_late_settlement_does_not_touch_the_new_owners_message(self, open_driver: OpenDriver, late: str) -> None:
        first, second = open_driver(), open_driver()
        first.send([outgoing(b"mine")])
        stolen = receive(first, 1)[0].claim
        stolen.begin()
        first.close()
        claim = receive(second, 1)[0].claim
        copy = outgoing(b"not mine")
        settlements: dict[str, Settlement] = {
            "ack": Ack(stolen),
            "requeue": Requeue(stolen, copy),
            "park": Park(stolen, copy),
        }

        lost = first.settle([settlements[late]])

        assert list(lost) == [stolen]
        assert list(second.settle([Requeue(claim, outgoing(b"mine"))])) == []
        assert bodies(receive(second, 1)) == [b"mine"]

    @requires("shared")
    def test_what_is_not_begun_is_another_ones_while_the_rest_is_still_handled(self, open_driver: OpenDriver) -> None:
        first, second = open_driver(), open_driver()
        if not isinstance(first, GivesBack):
            pytest.skip(f"{type(self).__name__} gives back only when it is closed")
        first.send([outgoing(b"begun"), outgoing(b"unbegun")])
        claims = {delivery.body: delivery.claim for delivery in receive(first, 2)}
        claims[b"begun"].begin()

        first.give_back()

        (delivery,) = receive(second, 1)
        assert (delivery.body, delivery.claim.deliveries) == (b"unbegun", 1)
        assert not claims[b"unbegun"].begin()
        assert list(first.settle([Ack(claims[b"begun"])])) == []

    def test_closing_is_harmless_twice_and_without_use(self, open_driver: OpenDriver) -> None:
        driver = open_driver()
        driver.close()
        driver.send([outgoing()])
        driver.close()
        driver.close()

        assert len(receive(driver, 1)) == 1

    def test_another_thread_may_close_while_messages_are_fetched(self, driver: Driver) -> None:
        driver.send([outgoing(str(number).encode()) for number in range(20)])
        stop = threading.Event()

        def fetch() -> None:
            while not stop.is_set():
                driver.get(1)

        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(fetch)
            for _ in range(20):
                driver.close()
            stop.set()
            fetching.result()
        driver.close()

        received = receive(driver, 20)
        assert sorted(bodies(received)) == sorted(str(number).encode() for number in range(20))
        assert {delivery.claim.deliveries for delivery in received} == {1}

    def test_what_was_sent_right_before_closing_is_there(self, driver: Driver) -> None:
        driver.send([outgoing() for _ in range(100)])
        driver.close()

        assert len(receive(driver, 100)) == 100
