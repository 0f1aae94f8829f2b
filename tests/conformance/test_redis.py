"""The Redis driver passes the suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance import DriverConformance, Features, OpenDriver
from bus.transports.base import Driver
from bus.transports.registry import DriverContext, create_driver
from tests.servers.fixtures import private_redis
from tests.servers.redis import RedisServer


class ServerTime(FakeClock):
    """The server's own time passes; tests wait for it."""

    def advance(self, seconds: float) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


class TestRedis(DriverConformance):
    features = Features(priorities=False)

    @pytest.fixture
    def clock(self) -> FakeClock:
        return ServerTime()

    @pytest.fixture
    def open_driver(self, server: RedisServer) -> Iterator[OpenDriver]:
        drivers: list[Driver] = []

        def open_driver(queue: str = "orders") -> Driver:
            drivers.append(create_driver(queue, f"{server.url}/{queue}", {}, DriverContext()))
            return drivers[-1]

        yield open_driver
        for driver in drivers:
            driver.close()
        server.execute("FLUSHALL")
