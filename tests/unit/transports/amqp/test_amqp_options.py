"""What the options of a RabbitMQ transport may say, in YAML, in Python and in the DSN."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from bus import Binding, DeadLetter, Exchange, ExchangeType, Queue
from bus.errors import ConfigurationError
from bus.transports.amqp.options import AmqpOptions, read_options, vhost_of
from bus.transports.dsn import Dsn


def options(dsn: str = "amqp://localhost/%2f/messages", **given: object) -> AmqpOptions:
    return read_options("async", Dsn.parse(dsn), given)


def test_without_options_there_is_one_durable_fanout_exchange_with_a_queue_of_its_name() -> None:
    topology = options().topology

    assert topology.exchange == Exchange(name="messages", type="fanout")
    assert list(topology.readable) == ["messages"]


@pytest.mark.parametrize(
    ("dsn", "vhost", "exchange"),
    [
        ("amqp://localhost", "/", "messages"),
        ("amqp://localhost/", "/", "messages"),
        ("amqp://localhost/%2f", "/", "messages"),
        ("amqp://localhost/%2f/events", "/", "events"),
        ("amqp://localhost/shop/events", "shop", "events"),
        ("amqp://localhost/a%2fb/events", "a/b", "events"),
    ],
)
def test_the_path_of_the_dsn_names_the_virtual_host_and_the_exchange(dsn: str, vhost: str, exchange: str) -> None:
    parsed = Dsn.parse(dsn)

    assert vhost_of(parsed, options(dsn)) == vhost
    assert options(dsn).exchange.name == exchange


def test_an_exchange_and_its_queues_are_read_as_symfony_writes_them() -> None:
    read = options(
        exchange={
            "name": "orders",
            "type": "topic",
            "default_publish_routing_key": "order.default",
            "arguments": {"alternate-exchange": "lost"},
            "bindings": {"events": {"binding_keys": ["order.#"]}},
        },
        queues={
            "orders_all": {"binding_keys": ["order.#"], "arguments": {"x-max-priority": "10"}},
            "orders_eu": {"binding_keys": ["order.eu.*", "order.default"], "flags": 18},
            "plain": None,
        },
    )

    assert read.exchange == Exchange(
        name="orders",
        type=ExchangeType.TOPIC,
        default_publish_routing_key="order.default",
        arguments={"alternate-exchange": "lost"},
        bindings=(Binding(exchange="events", key="order.#"),),
    )
    assert read.queues == {
        "orders_all": Queue(binding_keys=("order.#",), arguments={"x-max-priority": 10}),
        "orders_eu": Queue(binding_keys=("order.eu.*", "order.default"), auto_delete=True),
        "plain": Queue(),
    }


def test_python_says_the_same_with_objects() -> None:
    exchange = Exchange(name="orders", type=ExchangeType.HEADERS)
    queue = Queue(binding_arguments={"region": "eu", "x-match": "all"})
    read = options(exchange=exchange, queues={"eu": queue}, dead_letter=DeadLetter(queue="dead"))

    assert (read.exchange, read.queues, read.dead_letter) == (exchange, {"eu": queue}, DeadLetter(queue="dead"))


def test_the_query_of_a_dsn_may_say_structured_options() -> None:
    read = options("amqp://localhost/%2f?exchange[name]=events&exchange[type]=topic&queues[q][binding_keys][0]=a.*")

    assert read.exchange == Exchange(name="events", type="topic")
    assert read.queues == {"q": Queue(binding_keys=("a.*",))}


def test_an_empty_map_of_queues_makes_a_transport_that_only_publishes() -> None:
    assert options(queues={}).topology.readable == {}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"exchange": {"nam": "x"}}, r'exchange has no option "nam".*did you mean "name"'),
        ({"exchange": {"type": "topics"}}, r'exchange type "topics" does not exist.*did you mean "topic"'),
        ({"exchange": "events"}, "exchange must be a map"),
        ({"queues": ["a"]}, '"queues" must be a map'),
        ({"queues": {"a": {"binding_keys": "x"}}}, '"binding_keys" of queue "a" must be a list'),
        ({"queues": {"a": {"flags": 8}}}, 'queue "a": flags are the sum of 2'),
        ({"queues": {"a" * 201: None}}, "at most 200 bytes"),
        ({"queues": {"a": {"arguments": {"x-max-length": 10}}}}, "RabbitMQ drops the oldest messages"),
        ({"queue_type": "stream"}, '"queue_type" must be "classic" or "quorum"'),
        ({"queue_type": "quorum", "queues": {"a": {"arguments": {"x-max-priority": 3}}}}, "has no priorities"),
        ({"ordered": True, "partitions": 0}, '"ordered" needs partitions'),
        ({"prefetch_count": 0}, '"prefetch_count" must be 1 to 65535'),
        ({"heartbeat": 0}, '"heartbeat" must be 1 to 3600'),
        ({"confirm_timeout": 0}, '"confirm_timeout" must be more than 0'),
        ({"cert": "client.pem"}, '"cert" and "key" need each other'),
        ({"sasl_method": "gssapi"}, '"sasl_method" must be "plain" or "external"'),
        ({"prefetch": 3}, r'unknown option "prefetch".*did you mean "prefetch_count"'),
    ],
)
def test_what_cannot_be_used_is_an_error_that_says_why(given: Mapping[str, object], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        options(**given)


def test_a_full_queue_that_refuses_may_have_a_limit() -> None:
    arguments = {"x-max-length": 10, "x-overflow": "reject-publish"}

    assert options(queues={"a": {"arguments": arguments}}).queues == {"a": Queue(arguments=arguments)}


def test_options_of_symfony_that_mean_nothing_here_are_left_aside_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        options(persistent=True, delay={"exchange_name": "later"})

    assert 'leaves its option "persistent" aside' in caplog.text
    assert 'leaves its option "delay" aside' in caplog.text


def test_the_password_is_not_shown() -> None:
    assert "geheim" not in repr(options(password="geheim"))
