"""What a RabbitMQ transport declares, and where its messages go."""

from __future__ import annotations

import zlib

from bus import Binding, DeadLetter, Exchange, ExchangeType, Queue
from bus.transports.amqp.topology import Bind, DeclareExchange, DeclareQueue, Topology

ORDERS = Exchange(name="orders", type=ExchangeType.TOPIC, default_publish_routing_key="order.default")


def test_queues_are_bound_by_each_of_their_keys() -> None:
    topology = Topology(ORDERS, {"eu": Queue(binding_keys=("order.eu.*", "order.default"))})

    assert list(topology.declarations()) == [
        DeclareExchange("orders", "topic"),
        DeclareQueue("eu"),
        Bind("orders", "eu", "order.eu.*"),
        Bind("orders", "eu", "order.default"),
    ]


def test_a_queue_without_binding_keys_is_not_bound() -> None:
    topology = Topology(ORDERS, {"eu": Queue(binding_keys=())})

    assert not [each for each in topology.declarations() if isinstance(each, Bind)]


def test_an_exchange_may_be_bound_to_others() -> None:
    exchange = Exchange(name="orders", bindings=(Binding(exchange="all", key="order.#"),))

    assert Bind("all", "orders", "order.#", to_exchange=True) in list(Topology(exchange, {}).declarations())


def test_the_default_exchange_is_neither_declared_nor_bound() -> None:
    topology = Topology(Exchange(name=""), {"jobs": Queue()})

    assert list(topology.declarations()) == [DeclareQueue("jobs")]
    assert topology.destination(None, None) == ("", "jobs")


def test_dead_letters_go_through_an_exchange_by_the_name_of_their_queue() -> None:
    topology = Topology(ORDERS, {"eu": Queue()}, dead_letter=DeadLetter(exchange="dx", queue="dq"))

    declared = list(topology.declarations())

    assert DeclareExchange("dx", "direct") in declared
    assert DeclareQueue("dq") in declared
    assert Bind("dx", "dq", "eu") in declared
    assert topology.declaration_of("eu").arguments == {
        "x-dead-letter-exchange": "dx",
        "x-dead-letter-routing-key": "eu",
    }


def test_dead_letters_have_names_of_their_own_where_none_are_given() -> None:
    topology = Topology(ORDERS, {"eu": Queue()}, dead_letter=DeadLetter())

    assert Bind("orders.dead", "orders.dead", "eu") in list(topology.declarations())


def test_quorum_queues_keep_a_dead_letter_until_its_queue_has_it() -> None:
    topology = Topology(ORDERS, {"eu": Queue()}, queue_type="quorum", dead_letter=DeadLetter())

    arguments = topology.declaration_of("eu").arguments

    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-overflow"] == "reject-publish"


def test_a_queue_says_its_type_itself_where_it_says_one() -> None:
    topology = Topology(ORDERS, {"eu": Queue(arguments={"x-queue-type": "classic"})}, queue_type="quorum")

    assert topology.declaration_of("eu").arguments == {"x-queue-type": "classic"}


def test_keyed_messages_go_to_the_partition_that_php_would_choose() -> None:
    topology = Topology(ORDERS, {"eu": Queue()}, partitions=4)
    number = zlib.crc32(b"customer-7") % 4

    assert topology.destination("order.eu", "customer-7") == (f"orders.{number}", "order.eu")
    assert topology.destination("order.eu", None) == ("orders", "order.eu")
    assert topology.queue_of("eu", "customer-7") == f"eu.{number}"


def test_each_partition_is_a_queue_with_one_active_consumer() -> None:
    topology = Topology(ORDERS, {"eu": Queue(binding_keys=("order.*",))}, partitions=2)

    assert list(topology.readable) == ["eu", "eu.0", "eu.1"]
    assert topology.readable["eu.1"].partition == 1
    assert topology.declaration_of("eu.1").arguments == {"x-single-active-consumer": True}
    assert Bind("orders.1", "eu.1", "order.*") in list(topology.declarations())


def test_a_message_with_a_routing_key_of_its_own_keeps_it() -> None:
    topology = Topology(ORDERS, {})

    assert topology.destination("order.eu.fr", None) == ("orders", "order.eu.fr")
    assert topology.destination(None, None) == ("orders", "order.default")
