"""Who receives what, and in which order."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from bus.testing.conformance.features import DriverSuite, OpenDriver, OpenSubscriber, requires
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.base import (
    Ack,
    Delivery,
    Driver,
    Requeue,
)


class Receiving(DriverSuite):
    """Claims, order, queues and competing consumers."""

    def test_an_empty_queue_gives_nothing_at_once(self, driver: Driver) -> None:
        began = time.monotonic()

        assert list(driver.get(10)) == []
        assert time.monotonic() - began < 1

    def test_no_more_messages_come_than_were_asked_for(self, driver: Driver) -> None:
        driver.send([outgoing() for _ in range(10)])

        assert len(receive(driver, 3, limit=3)) == 3
        assert list(driver.get(0)) == []

    def test_a_claimed_message_is_not_delivered_again(self, driver: Driver) -> None:
        driver.send([outgoing()])
        receive(driver, 1)

        assert list(driver.get(10)) == []

    @requires("ordered")
    def test_messages_come_in_the_order_in_which_they_were_sent(self, driver: Driver) -> None:
        sent = [str(number).encode() for number in range(100)]
        for body in sent:
            driver.send([outgoing(body)])

        assert bodies(receive(driver, 100, limit=7)) == sent

    @requires("priorities")
    def test_a_higher_priority_comes_first(self, driver: Driver) -> None:
        driver.send([outgoing(b"low", priority=-3), outgoing(b"normal"), outgoing(b"urgent", priority=7)])

        assert bodies(receive(driver, 3)) == [b"urgent", b"normal", b"low"]

    @requires("priorities")
    def test_a_priority_without_messages_due_does_not_hold_up_the_next(self, driver: Driver) -> None:
        driver.send([outgoing(b"later", priority=7, delay_ms=60_000), outgoing(b"now")])

        assert bodies(receive(driver, 1)) == [b"now"]

    @requires("several_queues")
    def test_queues_do_not_see_each_others_messages(self, open_driver: OpenDriver) -> None:
        orders, invoices = open_driver("orders"), open_driver("invoices")
        orders.send([outgoing(b"order")])
        invoices.send([outgoing(b"invoice")])

        assert bodies(receive(invoices, 1)) == [b"invoice"]
        assert bodies(receive(orders, 1)) == [b"order"]
        assert [*orders.get(10), *invoices.get(10)] == []

    @requires("several_queues")
    def test_an_origin_sends_a_message_to_that_queue_only(self, open_driver: OpenDriver) -> None:
        orders, invoices = open_driver("orders"), open_driver("invoices")

        orders.send([outgoing(b"back", origin="invoices")])

        assert bodies(receive(invoices, 1)) == [b"back"]
        assert list(orders.get(10)) == []

    @requires("shared")
    def test_a_driver_opened_later_sees_the_old_messages(self, open_driver: OpenDriver) -> None:
        first = open_driver()
        first.send([outgoing(b"old")])
        first.close()

        assert bodies(receive(open_driver(), 1)) == [b"old"]

    @requires("shared")
    def test_competing_consumers_handle_each_message_once(self, open_driver: OpenDriver) -> None:
        open_driver().send([outgoing(str(number).encode()) for number in range(400)])
        handled: list[bytes] = []

        def consume(driver: Driver) -> None:
            while deliveries := driver.get(7):
                handled.extend(bodies(deliveries))
                assert list(driver.settle([Ack(delivery.claim) for delivery in deliveries])) == []

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(consume, [open_driver() for _ in range(4)]))

        assert sorted(handled) == sorted(str(number).encode() for number in range(400))

    @requires("subscribers")
    def test_every_subscriber_gets_every_message(self, open_subscriber: OpenSubscriber) -> None:
        subscribers = self._subscribed(open_subscriber, "receipts", "stock")

        subscribers[0].send([outgoing(str(number).encode()) for number in range(10)])

        for each in subscribers:
            assert sorted(bodies(receive(each, 10))) == [str(number).encode() for number in range(10)]

    @requires("subscribers")
    def test_what_one_subscriber_requeues_the_other_sees_once(self, open_subscriber: OpenSubscriber) -> None:
        failing, other = self._subscribed(open_subscriber, "receipts", "stock")
        other.send([outgoing(b"event")])

        for _ in range(3):
            claim = receive(failing, 1)[0].claim
            assert claim.begin()
            assert list(failing.settle([Requeue(claim, outgoing(b"event", origin=claim.origin))])) == []

        other.send([outgoing(b"last")])
        seen: list[Delivery] = []
        while b"last" not in bodies(seen):
            seen += receive(other, 1)
            other.settle([Ack(seen[-1].claim)])
        assert sorted(bodies([*seen, *other.get(10)])) == [b"event", b"last"]

    @requires("subscribers")
    def test_what_one_subscriber_has_handled_the_other_still_gets(self, open_subscriber: OpenSubscriber) -> None:
        quick, slow = self._subscribed(open_subscriber, "receipts", "stock")
        quick.send([outgoing(b"event")])

        quick.settle([Ack(receive(quick, 1)[0].claim)])
        quick.close()

        assert bodies(receive(slow, 1)) == [b"event"]

    @staticmethod
    def _subscribed(open_subscriber: OpenSubscriber, *groups: str) -> list[Driver]:
        """Open a driver for each group; where a group begins with its first look, that was it."""
        drivers = [open_subscriber(group) for group in groups]
        for driver in drivers:
            assert list(driver.get(1)) == []
        return drivers
