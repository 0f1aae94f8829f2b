"""What is sent to RabbitMQ, and what becomes of it when RabbitMQ does not want it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from bus import headers
from bus.amqp_stamps import AmqpStamp
from bus.errors import AccessDeniedError, ConfigurationError, ConnectionLostError, SendRefused, SendUnknown
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.amqp.driver import AmqpDriver
from bus.transports.base import Discard, Outgoing, Park, Sent
from bus.transports.registry import DriverContext, create_driver
from tests.integration.amqp.conftest import eventually
from tests.servers.foreign_rabbitmq import ForeignRabbitMq
from tests.servers.rabbitmq import RabbitMq

CAPTURES = Path(__file__).parents[2] / "wire" / "amqp.json"


@pytest.fixture
def open_driver(amqp_dsn: str) -> Iterator[Callable[..., AmqpDriver]]:
    drivers: list[AmqpDriver] = []

    def open_driver(dsn: str = f"{amqp_dsn}/orders", **options: Any) -> AmqpDriver:
        driver = create_driver("async", dsn, options, DriverContext())
        assert isinstance(driver, AmqpDriver)
        drivers.append(driver)
        return driver

    yield open_driver
    for driver in drivers:
        driver.close()


def got(plain: Any, queue: str) -> tuple[Any, Any, bytes]:
    """Take one message as it is."""
    deadline = time.monotonic() + 10
    while True:
        method, properties, body = plain.basic_get(queue, auto_ack=True)
        if method is not None:
            return method, properties, body
        assert time.monotonic() < deadline, f"nothing came into {queue}"


def test_a_message_looks_like_symfonys(open_driver: Callable[..., AmqpDriver], plain: Any) -> None:
    wire = next(each for each in json.loads(CAPTURES.read_text())["items"] if each["id"] == "plain")["wire"]
    body = wire["body"]["utf8"].encode()
    open_driver().send([Outgoing("id-1", body, {**wire["headers"], "Content-Type": "application/json"})])

    method, properties, got_body = got(plain, "orders")

    assert (method.exchange, method.routing_key, got_body) == ("orders", "", body)
    assert properties.headers == wire["headers"]
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert abs(properties.timestamp - time.time()) < 60
    assert properties.message_id == "id-1"


def test_an_unroutable_message_is_refused_and_the_others_of_its_batch_are_sent(
    open_driver: Callable[..., AmqpDriver],
) -> None:
    driver = open_driver(exchange={"name": "orders", "type": "topic"}, queues={"eu": {"binding_keys": ["eu.*"]}})

    def keyed(key: str) -> Outgoing:
        return Outgoing(key, b"{}", {"type": "x"}, native=AmqpStamp(key))

    results = driver.send([keyed("eu.fr"), keyed("us.ny"), keyed("eu.de"), keyed("us.ca")])

    assert [type(each) for each in results] == [Sent, SendRefused, Sent, SendRefused]
    assert 'exchange "orders", routing key "us.ny"' in str(results[1])
    assert 'routing key "us.ca"' in str(results[3])


def test_a_missing_exchange_is_named_and_the_next_message_is_not_blamed(
    open_driver: Callable[..., AmqpDriver], plain: Any
) -> None:
    open_driver("" or _vhost_dsn(plain)).send([outgoing()])
    driver = open_driver(_vhost_dsn(plain), auto_setup=False)
    assert driver.send([outgoing()]) == [Sent()]
    plain.exchange_delete("orders")

    refused, other = driver.send([outgoing(), outgoing(origin="orders")])

    assert isinstance(refused, SendRefused)
    assert 'there is no exchange "orders"' in str(refused)
    assert other == Sent()


def _vhost_dsn(plain: Any) -> str:
    parameters = plain.connection._impl.params
    return (
        f"amqp://{parameters.credentials.username}:{parameters.credentials.password}"
        f"@{parameters.host}:{parameters.port}/{parameters.virtual_host}/orders"
    )


def test_a_deleted_topology_is_declared_again_and_the_message_sent(
    open_driver: Callable[..., AmqpDriver], plain: Any
) -> None:
    driver = open_driver()
    driver.send([outgoing(b"1")])
    plain.queue_delete("orders")
    assert driver.send([outgoing(b"2")]) == [Sent()]
    plain.exchange_delete("orders")
    assert driver.send([outgoing(b"3")]) == [Sent()]

    assert [got(plain, "orders")[2] for _ in range(2)] == [b"2", b"3"]


def test_a_full_queue_refuses_the_messages_that_it_does_not_take(open_driver: Callable[..., AmqpDriver]) -> None:
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    driver = open_driver(queues={"orders": {"arguments": arguments}})

    results = [driver.send([outgoing(str(number).encode())])[0] for number in range(4)]

    assert [type(each) for each in results] == [Sent, Sent, SendRefused, SendRefused]
    assert "is full" in str(results[2])


def test_what_cannot_be_written_fails_alone(open_driver: Callable[..., AmqpDriver]) -> None:
    bad = Outgoing("bad", b"{}", {"type": "\ud800"})

    first, second, third = open_driver().send([outgoing(), bad, outgoing()])

    assert (type(first), type(second), type(third)) == (Sent, SendRefused, Sent)
    assert "cannot be written" in str(second)


def test_a_property_that_rabbitmq_does_not_take_fails_alone(open_driver: Callable[..., AmqpDriver]) -> None:
    bad = Outgoing("bad", b"{}", {"type": "x"}, native=AmqpStamp(attributes={"expiration": "-5"}))

    results = open_driver().send([outgoing(), outgoing(), bad, outgoing(), outgoing()])

    assert [type(each) for each in results] == [Sent, Sent, SendRefused, Sent, Sent]
    assert "406" in str(results[2])


def test_a_queue_with_other_arguments_is_an_error_that_shows_both(
    open_driver: Callable[..., AmqpDriver], plain: Any
) -> None:
    plain.queue_declare("orders", durable=True)
    driver = open_driver(queue_type="quorum")

    (result,) = driver.send([outgoing()])
    assert isinstance(result, SendRefused)
    assert "for queue 'orders'" in str(result)
    assert "current is" in str(result)
    assert "'x-queue-type': 'quorum'" in str(result)
    with pytest.raises(ConfigurationError, match="other arguments"):
        driver.get(1)


def test_wrong_credentials_are_said_at_once(open_driver: Callable[..., AmqpDriver], plain: Any) -> None:
    driver = open_driver(_vhost_dsn(plain).replace("guest:guest", "guest:wrong"))

    for attempt in (lambda: driver.get(1), lambda: [_raised(each) for each in driver.send([outgoing()])]):
        began = time.monotonic()
        with pytest.raises(AccessDeniedError, match='refuses user "guest"') as raised:
            attempt()
        assert "wrong" not in str(raised.value)
        assert time.monotonic() - began < 4


def _raised(result: object) -> None:
    if isinstance(result, Exception):
        raise result


def test_a_server_that_is_not_there_is_said_within_the_deadline(open_driver: Callable[..., AmqpDriver]) -> None:
    driver = open_driver("amqp://127.0.0.1:1/%2f/orders", confirm_timeout=0.5)

    with pytest.raises(ConnectionLostError, match="cannot be reached"):
        driver.send([outgoing()])
    with pytest.raises(ConnectionLostError, match="cannot be reached"):
        driver.get(1)


def test_several_hosts_are_tried_in_turn(open_driver: Callable[..., AmqpDriver], plain: Any) -> None:
    dsn = _vhost_dsn(plain)
    host = dsn.rpartition("@")[2].partition("/")[0]
    driver = open_driver(dsn.replace(host, f"127.0.0.1:1,{host}"))

    assert driver.send([outgoing(b"x")]) == [Sent()]
    assert bodies(receive(driver, 1)) == [b"x"]


def test_a_connection_that_is_closed_between_two_sends_is_made_again(
    open_driver: Callable[..., AmqpDriver], rabbitmq: RabbitMq | ForeignRabbitMq
) -> None:
    if not isinstance(rabbitmq, RabbitMq):
        pytest.skip("connections of somebody else's RabbitMQ are not closed")
    driver = open_driver()
    for number in range(5):
        assert driver.send([outgoing(str(number).encode())]) == [Sent()]
        rabbitmq.close_all_connections()

    seen: set[bytes] = set()
    eventually(lambda: seen.update(bodies(driver.get(10))) or len(seen) == 5, "all should have come")


def test_a_blocked_broker_fails_a_send_at_its_deadline_and_says_why(
    open_driver: Callable[..., AmqpDriver], rabbitmq: RabbitMq | ForeignRabbitMq
) -> None:
    if not isinstance(rabbitmq, RabbitMq):
        pytest.skip("somebody else's RabbitMQ is not blocked")
    driver = open_driver(confirm_timeout=1)
    driver.send([outgoing(b"before")])

    with rabbitmq.memory_alarm():
        (first,) = driver.send([outgoing(b"first")])
        assert isinstance(first, SendUnknown)
        with pytest.raises(ConnectionLostError, match="takes no messages for now"):
            driver.send([outgoing(b"second")])

    eventually(lambda: _is_sent(driver, b"after"), "it should take messages again")
    seen: set[bytes] = set()
    eventually(lambda: seen.update(bodies(driver.get(10))) or seen >= {b"before", b"after"}, "both should have come")


def _is_sent(driver: AmqpDriver, body: bytes) -> bool:
    try:
        return driver.send([outgoing(body)]) == [Sent()]
    except ConnectionLostError:
        return False


def test_a_forked_child_has_connections_of_its_own(open_driver: Callable[..., AmqpDriver], plain: Any) -> None:
    driver = open_driver()
    driver.send([outgoing(b"parent")])
    held = receive(driver, 1)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            sent = [driver.send([outgoing(b"child")])[0] for _ in range(20)]
            status = 0 if sent == [Sent()] * 20 and held[0].claim.withdrawn else 2
            driver.close()
        finally:
            os._exit(status)
    for _ in range(20):
        assert driver.send([outgoing(b"parent")]) == [Sent()]
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert not held[0].claim.withdrawn
    counted = receive(driver, 40)
    assert sorted(bodies(counted)) == [b"child"] * 20 + [b"parent"] * 20


# --- delays ---


def test_what_is_left_of_a_delay_is_waited_for_in_a_second_step(
    open_driver: Callable[..., AmqpDriver], plain: Any
) -> None:
    driver = open_driver()
    driver.set_up()
    properties = pika.BasicProperties(message_id="m", headers={"type": "x", headers.DELAY_REST: "300"})
    began = time.monotonic()
    plain.basic_publish("", "orders", b"late", properties)

    delivery = receive(driver, 1)[0]

    assert time.monotonic() - began >= 0.3
    assert (delivery.body, dict(delivery.headers), delivery.claim.deliveries) == (b"late", {"type": "x"}, 1)


def test_a_delayed_message_keeps_its_routing_key(open_driver: Callable[..., AmqpDriver], plain: Any) -> None:
    driver = open_driver(exchange={"name": "orders", "type": "topic"}, queues={"eu": {"binding_keys": ["eu.*"]}})

    driver.send([Outgoing("m", b"{}", {"type": "x"}, delay_ms=100, native=AmqpStamp("eu.fr"))])

    method, _, _ = got(plain, "eu")
    assert (method.exchange, method.routing_key) == ("orders", "eu.fr")


def test_a_long_delay_waits_for_two_digits_first_and_says_what_is_left(
    open_driver: Callable[..., AmqpDriver], plain: Any
) -> None:
    open_driver().send([outgoing(delay_ms=123_456)])

    _, properties, _ = got(plain, "orders.delay.120000ms")

    assert properties.headers[headers.DELAY_REST] == "3456"


def test_without_hops_every_length_has_its_own_queue(open_driver: Callable[..., AmqpDriver], plain: Any) -> None:
    open_driver(delay_hops=False).send([outgoing(delay_ms=123_456)])

    _, properties, _ = got(plain, "orders.delay.123456ms")

    assert headers.DELAY_REST not in properties.headers


# --- where messages end ---


def test_what_is_discarded_goes_to_the_dead_letters(open_driver: Callable[..., AmqpDriver], plain: Any) -> None:
    driver = open_driver(dead_letter=True)
    driver.send([outgoing(b"bad")])

    driver.settle([Discard(receive(driver, 1)[0].claim)])

    assert got(plain, "orders.dead")[2] == b"bad"


def test_what_is_parked_stands_in_a_queue_of_its_own(open_driver: Callable[..., AmqpDriver], plain: Any) -> None:
    driver = open_driver()
    driver.send([outgoing(b"bad")])

    driver.settle([Park(receive(driver, 1)[0].claim, outgoing(b"bad"))])

    assert got(plain, "orders.parked")[2] == b"bad"


def test_what_is_missing_is_named_by_a_check_and_declared_by_setting_up(
    open_driver: Callable[..., AmqpDriver],
) -> None:
    driver = open_driver(auto_setup=False, queues={"orders": None, "bills": None})

    assert driver.check() == ['queue "orders" does not exist', 'queue "bills" does not exist']
    driver.set_up()
    assert driver.check() == []
    assert driver.send([outgoing()]) == [Sent()]


def test_a_higher_priority_comes_first_where_the_queue_has_priorities(open_driver: Callable[..., AmqpDriver]) -> None:
    driver = open_driver(queues={"orders": {"arguments": {"x-max-priority": 10}}})
    driver.send([outgoing(b"normal"), outgoing(b"urgent", priority=7), outgoing(b"soon", priority=3)])

    assert bodies(receive(driver, 3)) == [b"urgent", b"soon", b"normal"]
