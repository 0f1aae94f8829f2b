"""The RabbitMQ driver (``amqp://``) passes the suite, on classic and on quorum queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance import DriverConformance, Features, OpenDriver, OpenSubscriber
from bus.transports.base import Driver, SetsUp
from bus.transports.registry import DriverContext, create_driver
from tests.servers.foreign_rabbitmq import ForeignRabbitMq
from tests.servers.rabbitmq import RabbitMq


def restarting(rabbitmq: RabbitMq | ForeignRabbitMq, end: Callable[[RabbitMq], None]) -> Callable[[], None]:
    if not isinstance(rabbitmq, RabbitMq):
        pytest.skip("a RabbitMQ of somebody else's is not restarted")

    def restart() -> None:
        end(rabbitmq)
        rabbitmq.start()

    return restart


class OnRabbitMq(DriverConformance):
    features = Features(
        priorities=False,  # a queue has them from 0 up, where it is declared so
        returns_in_place=False,  # what is given back stands behind what came meanwhile
        outlives_process=True,
        subscribers=True,
        restarts=True,
    )
    queue_type: ClassVar[str]

    @pytest.fixture
    def dsn(self, amqp_dsn: str) -> str:
        return f"{amqp_dsn}/orders?queue_type={self.queue_type}"

    @pytest.fixture
    def make_driver(self, amqp_dsn: str, clock: FakeClock) -> Iterator[Callable[..., Driver]]:
        drivers: list[Driver] = []

        def make(exchange: str, **options: Any) -> Driver:
            options = {"queue_type": self.queue_type, **options}
            drivers.append(create_driver(exchange, f"{amqp_dsn}/{exchange}", options, DriverContext(clock=clock)))
            return drivers[-1]

        yield make
        for driver in drivers:
            driver.close()

    @pytest.fixture
    def open_driver(self, make_driver: Callable[..., Driver]) -> OpenDriver:
        def open_driver(queue: str = "orders") -> Driver:
            driver = make_driver(queue)
            if queue != "orders" and isinstance(driver, SetsUp):
                driver.set_up()  # RabbitMQ refuses what goes to a queue that nobody has declared
            return driver

        return open_driver

    @pytest.fixture
    def open_subscriber(self, make_driver: Callable[..., Driver]) -> OpenSubscriber:
        return lambda group: make_driver("events", queues={group: None})

    @pytest.fixture
    def restart_server(self, rabbitmq: RabbitMq | ForeignRabbitMq) -> Callable[[], None]:
        return restarting(rabbitmq, lambda broker: broker.kill())


class TestRabbitMqWithClassicQueues(OnRabbitMq):
    queue_type = "classic"


class TestRabbitMqWithQuorumQueues(OnRabbitMq):
    queue_type = "quorum"

    @pytest.fixture
    def restart_server(self, rabbitmq: RabbitMq | ForeignRabbitMq) -> Callable[[], None]:
        # In good order: Ra notes a new quorum queue on the disk only after half a second, and after a kill within that
        # time the queue never has a leader again.
        return restarting(rabbitmq, lambda broker: broker.stop())
