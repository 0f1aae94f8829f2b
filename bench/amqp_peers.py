"""Other libraries that use RabbitMQ, set up to keep the promises of the bus as far as they can.

That is: durable queues, persistent messages, publisher confirms, an acknowledgement after handling, no stored results.
Only where a queue is filled to be consumed do they publish unconfirmed, because that is quicker and not measured.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict

import celery
import dramatiq
import kombu
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from bench.orders import BATCH, OrderPlaced

PREFETCH = 100
QUEUE_OF_FASTSTREAM = RabbitQueue("faststream", durable=True)

Handle = Callable[[OrderPlaced], None]


class Dramatiq:
    """One worker process, which has 8 threads by default."""

    def __init__(self, dsn: str, *, confirmed: bool, threads: int = 8) -> None:
        self._threads = threads
        self._broker = RabbitmqBroker(url=dsn, confirm_delivery=confirmed)
        dramatiq.set_broker(self._broker)
        self._handle: Handle = lambda order: None
        self._actor = dramatiq.actor(self._take, queue_name="dramatiq", actor_name="take")

    def _take(self, order_id: str, quantity: int) -> None:
        self._handle(OrderPlaced(order_id, quantity))

    def sender(self) -> Callable[[OrderPlaced], None]:
        return lambda order: self._actor.send(order.order_id, order.quantity)

    def fill(self, orders: list[OrderPlaced]) -> None:
        for order in orders:
            self._actor.send(order.order_id, order.quantity)

    def work(self, handle: Handle) -> None:
        self._handle = handle
        dramatiq.Worker(self._broker, worker_threads=self._threads).start()
        threading.Event().wait()


class Celery:
    """One worker process with the solo pool: the handler runs in the thread that reads."""

    def __init__(self, dsn: str, *, confirmed: bool) -> None:
        self._handle: Handle = lambda order: None
        self._app = celery.Celery(broker=dsn)
        self._app.conf.update(
            task_default_queue="celery",
            task_acks_late=True,
            task_ignore_result=True,
            worker_prefetch_multiplier=PREFETCH,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
            broker_transport_options={"confirm_publish": confirmed},
        )

        @self._app.task(name="take")
        def take(order_id: str, quantity: int) -> None:
            self._handle(OrderPlaced(order_id, quantity))

        self._task = take

    def sender(self) -> Callable[[OrderPlaced], None]:
        return lambda order: self._task.delay(order.order_id, order.quantity)

    def fill(self, orders: list[OrderPlaced]) -> None:
        for order in orders:
            self._task.delay(order.order_id, order.quantity)

    def work(self, handle: Handle) -> None:
        self._handle = handle
        self._app.Worker(
            pool="solo", concurrency=1, without_gossip=True, without_mingle=True, without_heartbeat=True, quiet=True
        ).start()


class Kombu:
    """Celery's messaging library by itself."""

    def __init__(self, dsn: str, *, confirmed: bool) -> None:
        self._connection = kombu.Connection(dsn, transport_options={"confirm_publish": confirmed})
        self._queue = kombu.Queue("kombu", durable=True)

    def sender(self) -> Callable[[OrderPlaced], None]:
        connection = self._connection.clone()
        producer = connection.Producer(routing_key=self._queue.name)
        self._queue(producer.channel).declare()
        return lambda order: producer.publish(asdict(order), delivery_mode="persistent")

    def fill(self, orders: list[OrderPlaced]) -> None:
        send = self.sender()
        for order in orders:
            send(order)

    def work(self, handle: Handle) -> None:
        def on_message(body: dict[str, object], message: kombu.Message) -> None:
            handle(OrderPlaced(**body))
            message.ack()

        with self._connection.Consumer(self._queue, callbacks=[on_message], accept=["json"], prefetch_count=PREFETCH):
            while True:
                self._connection.drain_events()


class FastStream:
    """On aio-pika. Sends of a batch wait together."""

    def __init__(self, dsn: str) -> None:
        logging.getLogger("faststream").setLevel(logging.ERROR)
        self._loop = asyncio.new_event_loop()
        self._broker = RabbitBroker(dsn, default_channel=Channel(prefetch_count=PREFETCH), logger=None)

    def sender(self) -> Callable[[OrderPlaced], None]:
        self._loop.run_until_complete(self._declare())
        return lambda order: self._loop.run_until_complete(self._publish(order))

    async def _declare(self) -> None:
        await self._broker.connect()
        await self._broker.declare_queue(QUEUE_OF_FASTSTREAM)

    async def _publish(self, order: OrderPlaced) -> None:
        await self._broker.publish(asdict(order), QUEUE_OF_FASTSTREAM, persist=True)

    def fill(self, orders: list[OrderPlaced]) -> None:
        async def publish_all() -> None:
            await self._declare()
            for start in range(0, len(orders), BATCH):
                await asyncio.gather(*map(self._publish, orders[start : start + BATCH]))

        self._loop.run_until_complete(publish_all())

    def work(self, handle: Handle) -> None:
        @self._broker.subscriber(QUEUE_OF_FASTSTREAM)
        async def take(order: OrderPlaced) -> None:
            handle(order)

        self._loop.run_until_complete(self._broker.start())
        self._loop.run_forever()
