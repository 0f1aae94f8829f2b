"""The Redis driver passes the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance import PASSWORD, DriverConformance, Features, OpenDriver, OpenSubscriber
from bus.transports.base import Driver, SetsUp
from bus.transports.registry import DriverContext, create_driver
from tests.servers.fixtures import private_redis
from tests.servers.ports import REDIS, reserved
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
    # A claim stands in the group's list on the server, which keeps it over a restart.
    features = Features(
        priorities=False, outlives_process=True, subscribers=True, restarts=True, connects=True, loses_claims=False
    )

    @pytest.fixture
    def clock(self) -> FakeClock:
        return ServerTime()

    @pytest.fixture
    def open_group(self, server: RedisServer) -> Iterator[Callable[[str, str], Driver]]:
        drivers: list[Driver] = []

        def open_group(stream: str, group: str) -> Driver:
            dsn = f"redis://127.0.0.1:{server.port}/{stream}/{group}"
            drivers.append(create_driver(stream, dsn, {}, DriverContext()))
            return drivers[-1]

        yield open_group
        for driver in drivers:
            driver.close()
        server.execute("FLUSHALL")

    @pytest.fixture
    def open_driver(self, open_group: Callable[[str, str], Driver]) -> OpenDriver:
        return lambda queue="orders": open_group(queue, "symfony")

    @pytest.fixture
    def open_subscriber(self, open_group: Callable[[str, str], Driver]) -> OpenSubscriber:
        def open_subscriber(group: str) -> Driver:
            driver = open_group("orders", group)
            assert isinstance(driver, SetsUp)
            driver.set_up()
            return driver

        return open_subscriber

    @pytest.fixture
    def dsn(self, server: RedisServer) -> str:
        return f"redis://127.0.0.1:{server.port}/orders"

    @pytest.fixture
    def restart_server(self, server: RedisServer) -> Callable[[], None]:
        def restart() -> None:
            server.kill()
            server.start()

        return restart

    @pytest.fixture
    def driver_without_server(self) -> Iterator[Driver]:
        with reserved(REDIS, 1) as port:
            driver = create_driver("orders", f"redis://:{PASSWORD}@127.0.0.1:{port}/orders", {}, DriverContext())
            yield driver
            driver.close()
