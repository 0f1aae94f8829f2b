"""The private Redis servers of the tests do what tests ask of them."""

from __future__ import annotations

import pytest
import redis

from tests.servers.fixtures import private_redis
from tests.servers.redis import Keys, RedisServer


def test_a_killed_server_comes_back_with_its_data(own_redis: RedisServer) -> None:
    for number in range(50):
        own_redis.execute("SET", f"key {number}", number)

    own_redis.kill()
    assert not own_redis.alive
    own_redis.start()

    assert own_redis.execute("DBSIZE") == 50


def test_a_server_without_persistence_loses_its_data() -> None:
    with private_redis(persistent=False) as server:
        server.execute("SET", "key", "value")

        server.stop()
        server.start()

        assert server.execute("DBSIZE") == 0


def test_a_frozen_server_does_not_answer_until_it_is_thawed(own_redis: RedisServer) -> None:
    client = redis.Redis.from_url(own_redis.url, socket_timeout=0.2)
    client.ping()

    own_redis.freeze()
    with pytest.raises(redis.RedisError):
        client.ping()
    own_redis.thaw()

    assert own_redis.execute("PING") in ("PONG", True)
    client.close()


def test_the_keys_of_a_test_are_deleted_and_no_others(redis_url: str) -> None:
    mine, others = Keys(redis_url), Keys(redis_url)
    client = mine.client()
    client.set(mine.stream("a"), "1")
    client.set(others.stream("a"), "1")

    mine.delete_all()

    assert client.exists(mine.stream("a")) == 0
    assert client.exists(others.stream("a")) == 1
    others.delete_all()
    client.close()
