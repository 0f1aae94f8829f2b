"""Fixtures that start servers when a test first asks for one.

A server that is missing skips the test, with its name; under ``BUS_REQUIRE_SERVERS=1`` it fails it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.servers import rabbitmq as rabbitmq_server
from tests.servers import redis as redis_server
from tests.servers import redis_groups
from tests.servers.foreign_rabbitmq import ForeignRabbitMq
from tests.servers.need import need
from tests.servers.rabbitmq import RabbitMq
from tests.servers.redis import Keys, RedisServer


@contextmanager
def private_rabbitmq() -> Iterator[RabbitMq]:
    """Yield a running broker that nobody else uses."""
    need(rabbitmq_server.missing())
    with TemporaryDirectory(prefix="bus-rabbitmq-", ignore_cleanup_errors=True) as folder:
        broker = RabbitMq(Path(folder))
        try:
            broker.start()
            yield broker
        finally:
            broker.close()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMq | ForeignRabbitMq]:
    """Yield the broker that the tests of a session share; yours, if ``BUS_TEST_RABBITMQ_DSN`` names one."""
    foreign = ForeignRabbitMq.from_environment()
    if foreign is not None:
        yield foreign
        return
    with private_rabbitmq() as broker:
        yield broker


@pytest.fixture
def amqp_dsn(rabbitmq: RabbitMq | ForeignRabbitMq) -> Iterator[str]:
    """Yield the DSN of a virtual host that only this test has."""
    vhost = rabbitmq.make_vhost()
    yield rabbitmq.url(vhost)
    rabbitmq.delete_vhost(vhost)


@pytest.fixture
def own_rabbitmq() -> Iterator[RabbitMq]:
    """Yield a broker of this test's own, to be killed, frozen and filled."""
    with private_rabbitmq() as broker:
        yield broker


@contextmanager
def private_redis(*settings: str, persistent: bool = True) -> Iterator[RedisServer]:
    """Yield a running Redis that nobody else uses. ``settings`` are further arguments of its command line."""
    need(redis_server.missing())
    with (
        TemporaryDirectory(prefix="bus-redis-", ignore_cleanup_errors=True) as folder,
        redis_server.running(Path(folder), settings, persistent=persistent) as server,
    ):
        yield server


@contextmanager
def private_redis_cluster() -> Iterator[redis_groups.RedisCluster]:
    """Yield a cluster of three masters that nobody else uses."""
    need(redis_server.missing())
    with (
        TemporaryDirectory(prefix="bus-redis-", ignore_cleanup_errors=True) as folder,
        redis_groups.cluster(Path(folder)) as cluster,
    ):
        yield cluster


@contextmanager
def private_redis_sentinel() -> Iterator[redis_groups.Watched]:
    """Yield a master with a replica and a Sentinel, which nobody else uses."""
    need(redis_server.missing())
    with (
        TemporaryDirectory(prefix="bus-redis-", ignore_cleanup_errors=True) as folder,
        redis_groups.watched(Path(folder)) as watched,
    ):
        yield watched


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Yield the URL of the Redis that the tests of a session share; yours, if ``BUS_TEST_REDIS_DSN`` names one."""
    foreign = os.environ.get(redis_server.VARIABLE)
    if foreign:
        yield foreign
        return
    with private_redis() as server:
        yield server.url


@pytest.fixture
def redis_keys(redis_url: str) -> Iterator[Keys]:
    """Yield names for streams that only this test has; they are deleted after it."""
    keys = Keys(redis_url)
    yield keys
    keys.delete_all()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """Yield a Redis of this test's own, with an append-only file, to be killed, frozen and filled."""
    with private_redis() as server:
        yield server
