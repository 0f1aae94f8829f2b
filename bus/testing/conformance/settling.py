"""What becomes of a message when its claim is settled."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance.features import DriverSuite, requires
from bus.testing.conformance.traffic import DELAY, bodies, outgoing, receive
from bus.transports.base import (
    Ack,
    Discard,
    Driver,
    Lists,
    Park,
    Requeue,
)


class Settling(DriverSuite):
    """Ack, discard, requeue, park."""

    @pytest.mark.parametrize("settlement", [Ack, Discard])
    def test_what_is_removed_does_not_come_again(self, driver: Driver, settlement: type[Ack | Discard]) -> None:
        driver.send([outgoing()])
        claim = receive(driver, 1)[0].claim

        assert list(driver.settle([settlement(claim)])) == []
        driver.close()
        assert list(driver.get(10)) == []

    def test_settling_again_touches_nothing(self, driver: Driver) -> None:
        driver.send([outgoing(b"first")])
        claim = receive(driver, 1)[0].claim
        driver.settle([Ack(claim)])
        driver.send([outgoing(b"second")])

        driver.settle([Ack(claim), Requeue(claim, outgoing(b"first"))])

        assert bodies(receive(driver, 1)) == [b"second"]
        assert list(driver.get(10)) == []

    def test_a_settled_claim_has_no_say_in_the_next_delivery(self, driver: Driver) -> None:
        driver.send([outgoing()])
        settled = receive(driver, 1)[0].claim
        driver.settle([Requeue(settled, outgoing(b"again"))])
        claim = receive(driver, 1)[0].claim

        assert list(driver.settle([Ack(settled)])) == [settled]
        assert list(driver.settle([Ack(claim)])) == []

    def test_a_requeued_message_comes_back_with_new_headers_and_its_body(self, driver: Driver) -> None:
        driver.send([outgoing(b"\0body")])
        delivery = receive(driver, 1)[0]

        driver.settle([Requeue(delivery.claim, outgoing(delivery.body, headers={"type": "x", "retry": "1"}))])

        again = receive(driver, 1)[0]
        assert again.body == b"\0body"
        assert dict(again.headers) == {"type": "x", "retry": "1"}

    def test_a_requeued_message_counts_its_deliveries_anew(self, driver: Driver) -> None:
        driver.send([outgoing()])
        for _ in range(3):
            claim = receive(driver, 1)[0].claim
            assert claim.deliveries == 1
            driver.settle([Requeue(claim, outgoing())])

    def test_a_requeued_message_waits_for_its_delay(self, driver: Driver, clock: FakeClock) -> None:
        driver.send([outgoing()])
        claim = receive(driver, 1)[0].claim

        driver.settle([Requeue(claim, outgoing(b"again", delay_ms=DELAY))])

        assert list(driver.get(10)) == []
        clock.advance(DELAY / 1000)
        assert bodies(receive(driver, 1)) == [b"again"]

    @requires("parks")
    def test_a_parked_message_is_kept_and_not_delivered(self, driver: Driver, clock: FakeClock) -> None:
        driver.send([outgoing()])
        claim = receive(driver, 1)[0].claim

        assert list(driver.settle([Park(claim, outgoing(b"parked"))])) == []

        clock.advance(30 * 24 * 3600)
        assert list(driver.get(10)) == []
        if isinstance(driver, Lists):
            assert [(each.body, each.state) for each in driver.peek(10)] == [(b"parked", "parked")]

    def test_one_batch_settles_in_every_way(self, driver: Driver) -> None:
        driver.send([outgoing(str(number).encode()) for number in range(3)])
        done, given_up, again = receive(driver, 3)

        lost = driver.settle([Ack(done.claim), Discard(given_up.claim), Requeue(again.claim, outgoing(b"again"))])

        assert list(lost) == []
        assert bodies(receive(driver, 1)) == [b"again"]
        assert list(driver.get(10)) == []

    def test_a_lost_claim_does_not_disturb_its_batch(self, driver: Driver) -> None:
        driver.send([outgoing(b"first"), outgoing(b"second")])
        first, second = (delivery.claim for delivery in receive(driver, 2))
        driver.settle([Ack(first)])

        lost = driver.settle([Requeue(first, outgoing(b"first")), Ack(second)])

        assert list(lost) == [first]
        assert list(driver.get(10)) == []

    def test_many_threads_may_settle_at_once(self, driver: Driver) -> None:
        driver.send([outgoing() for _ in range(64)])
        claims = [delivery.claim for delivery in receive(driver, 64)]

        with ThreadPoolExecutor(8) as pool:
            lost = list(pool.map(lambda claim: list(driver.settle([Ack(claim)])), claims))

        assert lost == [[]] * 64
        driver.close()
        assert list(driver.get(10)) == []
