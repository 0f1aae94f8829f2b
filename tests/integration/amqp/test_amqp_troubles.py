"""Consuming while things go wrong: connections, queues, handlers that take long, processes that die."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from bus import Envelope, MemoryStore, message
from bus.errors import ConnectionLostError
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.amqp.driver import AmqpDriver
from bus.transports.base import Ack, Driver
from bus.transports.registry import DriverContext, create_driver
from tests.integration.amqp.conftest import MakesMessengers, consume_all, eventually, working
from tests.servers.foreign_rabbitmq import ForeignRabbitMq
from tests.servers.rabbitmq import RabbitMq


@message("test.amqp.task")
@dataclass(frozen=True)
class Task:
    text: str


@pytest.fixture
def broker(rabbitmq: RabbitMq | ForeignRabbitMq) -> RabbitMq:
    if not isinstance(rabbitmq, RabbitMq):
        pytest.skip("somebody else's RabbitMQ is left alone")
    return rabbitmq


@pytest.fixture
def open_driver(amqp_dsn: str) -> Iterator[Callable[..., AmqpDriver]]:
    drivers: list[AmqpDriver] = []

    def open_driver(**options: Any) -> AmqpDriver:
        driver = create_driver("async", f"{amqp_dsn}/orders", options, DriverContext())
        assert isinstance(driver, AmqpDriver)
        drivers.append(driver)
        return driver

    yield open_driver
    for driver in drivers:
        driver.close()


def test_a_worker_goes_on_when_all_connections_are_closed_again_and_again(
    make_messenger: MakesMessengers, broker: RabbitMq
) -> None:
    handled: set[str] = set()

    def handle(task: Task) -> None:
        handled.add(task.text)

    messenger = make_messenger(handle, **{"async": {}})
    with working(messenger):
        for round_ in range(3):
            messenger.bus.dispatch_many([Task(f"{round_}-{number}") for number in range(50)])
            broker.close_all_connections()
        eventually(lambda: len(handled) == 150, "all should be handled")


def test_a_queue_that_is_deleted_while_it_is_read_is_declared_again(
    make_messenger: MakesMessengers, plain: Any
) -> None:
    handled: list[str] = []

    def handle(task: Task) -> None:
        handled.append(task.text)

    messenger = make_messenger(handle, **{"async": {}})
    with working(messenger):
        messenger.dispatch(Task("before"))
        eventually(lambda: handled == ["before"], "the first should be handled")
        consumer = cast("AmqpDriver", messenger.transport("async").driver)._consumer
        # Not while it is about to consume more at once: RabbitMQ 3.10 can then lose track of the consumer.
        eventually(lambda: consumer.found_empty, "the worker should be idle")
        plain.queue_delete("async")
        messenger.dispatch(Task("after"))
        eventually(lambda: handled == ["before", "after"], "the second should be handled too")


def test_a_handler_may_take_longer_than_the_heartbeat(make_messenger: MakesMessengers) -> None:
    handled: list[str] = []

    def handle(task: Task) -> None:
        threading.Event().wait(4.5)
        handled.append(task.text)

    messenger = make_messenger(handle, **{"async": {"heartbeat": 1}})
    messenger.dispatch(Task("long"))
    consume_all(messenger)

    assert handled == ["long"]


def test_what_was_settled_before_a_connection_was_lost_is_not_settled_again(
    open_driver: Callable[..., AmqpDriver], broker: RabbitMq
) -> None:
    driver = open_driver()
    driver.send([outgoing(b"x")])
    claim = receive(driver, 1)[0].claim
    claim.begin()

    broker.close_all_connections()
    eventually(lambda: claim.withdrawn, "the claim should be withdrawn")

    assert list(driver.settle([Ack(claim)])) == [claim]
    again: list[Any] = []

    def has_come() -> bool:
        try:
            again.extend(driver.get(1))
        except ConnectionLostError:
            pass
        return bool(again)

    eventually(has_come, "it should come again")
    assert again[0].claim.deliveries == 2


def test_the_count_of_a_message_that_kills_its_worker_climbs_and_the_others_do_not(
    open_driver: Callable[..., AmqpDriver], broker: RabbitMq
) -> None:
    open_driver().send([outgoing(b"killer"), *(outgoing(f"innocent {number}".encode()) for number in range(5))])
    counts: list[int] = []
    highest: dict[bytes, int] = {}
    for _ in range(4):
        driver = open_driver()
        killed = False

        def look(driver: AmqpDriver = driver) -> bool:
            nonlocal killed
            for delivery in driver.get(10):
                highest[delivery.body] = max(highest.get(delivery.body, 0), delivery.claim.deliveries)
                if delivery.body == b"killer":
                    delivery.claim.begin()
                    counts.append(delivery.claim.deliveries)
                    killed = True
            return killed

        eventually(look, "the killer should have come")
        broker.close_all_connections()  # as when a process dies: nothing is given back

    assert counts == [1, 2, 3, 4]
    assert max(count for body, count in highest.items() if body != b"killer") <= 3


def test_giving_back_twenty_times_condemns_nothing(open_driver: Callable[..., AmqpDriver]) -> None:
    driver = open_driver()
    driver.send([outgoing(str(number).encode()) for number in range(10)])
    for _ in range(20):
        assert {each.claim.deliveries for each in receive(driver, 5)} == {1}
        driver.close()

    assert sorted(bodies(receive(driver, 10))) == [str(number).encode() for number in range(10)]


def test_in_partitions_the_count_stands_in_the_store_and_the_order_stays(amqp_dsn: str, broker: RabbitMq) -> None:
    store = MemoryStore()
    context = DriverContext(store=lambda: store)
    drivers: list[Driver] = []

    def opened() -> Driver:
        drivers.append(create_driver("async", f"{amqp_dsn}/orders", {"partitions": 1}, context))
        return drivers[-1]

    sent = [b"killer", b"one", b"two"]
    opened().send([replace(outgoing(body), partition_key="k") for body in sent])
    for expected in (1, 2, 3):
        first = receive(opened(), 1, limit=1)[0]
        assert (first.body, first.claim.deliveries) == (b"killer", expected)
        assert first.claim.begin()
        broker.close_all_connections()  # as when a process dies: nothing is given back
    for _ in range(3):
        driver = opened()
        claim = receive(driver, 1, limit=1)[0].claim
        assert claim.deliveries == 4
        driver.close()

    driver = opened()
    received = []
    for _ in sent:
        received += receive(driver, 1, limit=1)
        driver.settle([Ack(received[-1].claim)])

    assert bodies(received) == sent
    assert [each.claim.deliveries for each in received] == [4, 2, 2]
    for each in drivers:
        each.close()


def test_failed_messages_can_be_shown_retried_and_removed(make_messenger: MakesMessengers) -> None:
    fails = True
    handled: list[str] = []

    def handle(task: Task, envelope: Envelope) -> None:
        if fails:
            raise ValueError("not yet")
        handled.append(task.text)

    messenger = make_messenger(handle, **{"async": {}})
    messenger.bus.dispatch_many([Task("a"), Task("b"), Task("c")])
    with working(messenger):
        eventually(lambda: len(list(messenger.failed().list())) == 3, "all should be in the failure transport")
    failed = messenger.failed()
    shown = {str(each.envelope.message.text): each.id for each in failed.list()}  # type: ignore[attr-defined]
    assert sorted(shown) == ["a", "b", "c"]
    assert all(len(each.errors) == 1 for each in failed.list())

    removed = list(failed.remove(failed.select([shown["b"]])))
    fails = False
    sent = list(failed.retry(failed.select([shown["a"]])))
    here = list(failed.handle(failed.select([shown["c"]])))

    assert [each.result for each in (*removed, *sent, *here)] == ["removed", "sent", "handled"]
    consume_all(messenger)
    assert handled == ["c", "a"]
    assert list(failed.list()) == []
