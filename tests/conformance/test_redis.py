"""The Redis driver passes the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance import PASSWORD, DriverConformance, Features, OpenDriver, OpenSubscriber
from bus.transports.base import Driver, SetsUp
from bus.transports.registry import DriverContext, create_driver
from tests.servers.fixtures import private_redis, private_redis_cluster, private_redis_sentinel
from tests.servers.ports import REDIS, reserved
from tests.servers.redis import RedisServer
from tests.servers.redis_groups import RedisCluster, Watched


class ServerTime(FakeClock):
    """The server's own time passes; tests wait for it."""

    def advance(self, seconds: float) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisCluster]:
    with private_redis_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def redis_watched() -> Iterator[Watched]:
    with private_redis_sentinel() as watched:
        yield watched


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


class TestRedisCluster(DriverConformance):
    features = Features(priorities=False)

    @pytest.fixture
    def clock(self) -> FakeClock:
        return ServerTime()

    @pytest.fixture
    def open_driver(self, redis_cluster: RedisCluster) -> Iterator[OpenDriver]:
        yield from _drivers_at(redis_cluster.url, {})
        redis_cluster.flush()


class TestRedisSentinel(DriverConformance):
    features = Features(priorities=False)

    @pytest.fixture
    def clock(self) -> FakeClock:
        return ServerTime()

    @pytest.fixture
    def open_driver(self, redis_watched: Watched) -> Iterator[OpenDriver]:
        yield from _drivers_at(redis_watched.url, redis_watched.options)
        redis_watched.master.execute("FLUSHALL")


def _drivers_at(url: str, options: Mapping[str, object]) -> Iterator[OpenDriver]:
    drivers: list[Driver] = []

    def open_driver(queue: str = "orders") -> Driver:
        drivers.append(create_driver(queue, f"{url}/{queue}", options, DriverContext()))
        return drivers[-1]

    yield open_driver
    for driver in drivers:
        driver.close()
