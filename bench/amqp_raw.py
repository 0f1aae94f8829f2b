"""RabbitMQ by hand, with pika and the guarantees of the bus.

That is: persistent, mandatory and confirmed messages, acknowledged when they were handled. It is the limit: nobody who
uses pika can be faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel

from bench.orders import OrderPlaced

QUEUE = "by-hand"
PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/json")
UNCONFIRMED = 1_000  # how many may wait for their confirmation at once


class Raw:
    """``batch``: how many messages one acknowledgement covers."""

    def __init__(self, dsn: str, batch: int) -> None:
        self._parameters = pika.URLParameters(dsn)
        self._batch = batch
        self._prefetch = max(100, 2 * batch)

    def sender(self) -> Callable[[OrderPlaced], None]:
        channel = self._blocking_channel()
        channel.confirm_delivery()
        return lambda order: channel.basic_publish("", QUEUE, encoded(order), PERSISTENT, mandatory=True)

    def _blocking_channel(self) -> BlockingChannel:
        channel = pika.BlockingConnection(self._parameters).channel()
        channel.queue_declare(QUEUE, durable=True)
        return channel

    def fill(self, orders: list[OrderPlaced]) -> None:
        """Publish on one SelectConnection, without waiting for one confirmation before the next message."""
        self._blocking_channel().connection.close()
        connection = pika.SelectConnection(self._parameters)
        waiting = iter(orders)
        confirmed = 0

        def publish(channel: Channel, count: int) -> None:
            for _, order in zip(range(count), waiting, strict=False):
                channel.basic_publish("", QUEUE, encoded(order), PERSISTENT, mandatory=True)

        def on_channel(channel: Channel) -> None:
            channel.confirm_delivery(lambda frame: on_confirmation(channel, frame))
            publish(channel, UNCONFIRMED)

        def on_confirmation(channel: Channel, frame: pika.frame.Method[pika.spec.Basic.Ack]) -> None:
            nonlocal confirmed
            tag = frame.method.delivery_tag
            # Without "multiple" RabbitMQ confirms one message, perhaps not the oldest one.
            new = tag - confirmed if frame.method.multiple else 1
            confirmed += new
            publish(channel, new)
            if confirmed == len(orders):
                connection.close()

        connection.add_on_open_callback(lambda _: connection.channel(on_open_callback=on_channel))
        connection.add_on_close_callback(lambda *_: connection.ioloop.stop())
        connection.ioloop.start()

    def work(self, handle: Callable[[OrderPlaced], None]) -> None:
        """Consume on a SelectConnection, for ever."""
        self._blocking_channel().connection.close()
        connection = pika.SelectConnection(self._parameters)
        batch, waiting = self._batch, 0

        def on_message(
            channel: Channel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
        ) -> None:
            nonlocal waiting
            handle(decoded(body))
            waiting += 1
            if waiting == batch:
                channel.basic_ack(method.delivery_tag, multiple=batch > 1)
                waiting = 0

        def on_channel(channel: Channel) -> None:
            channel.basic_qos(prefetch_count=self._prefetch)
            channel.basic_consume(QUEUE, on_message)

        connection.add_on_open_callback(lambda _: connection.channel(on_open_callback=on_channel))
        connection.ioloop.start()


class RawBlocking(Raw):
    """Consumes on a BlockingConnection."""

    def work(self, handle: Callable[[OrderPlaced], None]) -> None:
        channel = self._blocking_channel()
        channel.basic_qos(prefetch_count=self._prefetch)

        def on_message(
            channel: BlockingChannel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
        ) -> None:
            handle(decoded(body))
            channel.basic_ack(method.delivery_tag)

        channel.basic_consume(QUEUE, on_message)
        channel.start_consuming()


def encoded(order: OrderPlaced) -> bytes:
    return json.dumps(asdict(order)).encode()


def decoded(body: bytes) -> OrderPlaced:
    return OrderPlaced(**json.loads(body))
