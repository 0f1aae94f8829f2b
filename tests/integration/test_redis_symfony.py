"""One stream for a PHP application's Redis transport and for this bus.

PHP's part is played by the entries that were captured from a real Symfony Messenger.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from bus.testing.conformance.traffic import bodies, eventually, outgoing, receive
from bus.transports.base import Ack, Discard, Requeue
from bus.transports.redis.entries import from_value
from tests.integration.redis_drivers import Drivers, drivers_on
from tests.servers.redis import Keys

ITEMS = json.loads((Path(__file__).parents[1] / "wire/redis.json").read_text())["items"]


def raw(captured: Mapping[str, str]) -> bytes:
    return captured["utf8"].encode() if "utf8" in captured else base64.b64decode(captured["base64"])


def values_in(found: object) -> Iterator[bytes]:
    """Yield the value of every captured entry."""
    if isinstance(found, dict):
        fields = found.get("fields")
        if isinstance(fields, dict) and set(fields) == {"message"}:
            yield raw(fields["message"])
        for each in found.values():
            yield from values_in(each)
    elif isinstance(found, list):
        for each in found:
            yield from values_in(each)


# Written by serializers that only PHP has, or in a form within a form.
UNREADABLE = ("redis_option_serializer_igbinary_2", "redis_option_serializer_json_4")
ENTRIES = [
    pytest.param(value, id=f"{item['id']}-{number}")
    for item in ITEMS
    if item["id"] not in (*UNREADABLE, "php_serializer") and not item["id"].startswith("redis_written_serializer")
    for number, value in enumerate(values_in(item.get("keys", {})))
]
CAPTURES = {item["id"]: item for item in ITEMS}


@pytest.fixture
def keys(redis_keys: Keys) -> Keys:
    return redis_keys


@pytest.fixture
def drivers(redis_url: str) -> Iterator[Drivers]:
    with drivers_on(redis_url) as drivers:
        yield drivers


@pytest.fixture
def php(redis_keys: Keys) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_keys.url)
    yield client
    client.close()


def test_there_are_captures() -> None:
    assert len(ENTRIES) >= 10


@pytest.mark.parametrize("value", ENTRIES)
def test_what_symfony_wrote_is_read(value: bytes, drivers: Drivers, keys: Keys, php: redis.Redis) -> None:
    php.xadd(keys.stream("orders"), {"message": value})

    (delivery,) = receive(drivers.open(keys.stream("orders")), 1)

    text = value.decode()
    written = json.loads(text if text.startswith("{") else text[text.index('"') + 1 : -2])
    assert delivery.body == written["body"].encode()
    assert dict(delivery.headers) == written["headers"]
    assert delivery.headers["type"].startswith("App\\")


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_arrives_with_its_bytes_and_holds_up_nothing(
    name: str, drivers: Drivers, keys: Keys, php: redis.Redis
) -> None:
    (value,) = values_in(CAPTURES[name]["keys"])
    php.xadd(keys.stream("orders"), {"message": value})
    php.xadd(keys.stream("orders"), {"message": b'{"body":"good","headers":{"type":"a"}}'})

    odd, good = receive(drivers.open(keys.stream("orders")), 2)

    assert (odd.body, dict(odd.headers)) == (value, {})
    assert good.body == b"good"


def test_an_entry_without_the_field_arrives_and_holds_up_nothing(
    drivers: Drivers, keys: Keys, php: redis.Redis
) -> None:
    php.xadd(keys.stream("orders"), {"another": "x"})
    php.xadd(keys.stream("orders"), {"message": b"no json"})
    php.xadd(keys.stream("orders"), {"message": b's:400:"{}";'})
    php.xadd(keys.stream("orders"), {"message": b'{"body":{"a":1},"headers":[]}'})

    received = receive(drivers.open(keys.stream("orders")), 4)

    assert bodies(received) == [b"", b"no json", b's:400:"{}";', b'{"a": 1}']
    assert [dict(each.headers) for each in received] == [{}, {}, {}, {}]


def test_what_is_written_is_what_symfony_reads(drivers: Drivers, keys: Keys, php: redis.Redis) -> None:
    driver = drivers.open(keys.stream("orders"))
    driver.send([outgoing('{"a":"é"}'.encode(), headers={"type": "App\\X"})])
    driver.send([outgoing(b"{}", delay_ms=60_000)])

    ((_, fields),) = php.xrange(keys.stream("orders"))
    ((member, score),) = php.zrange(f"{keys.stream('orders')}__queue", 0, -1, withscores=True)

    assert {name: json.loads(value) for name, value in fields.items()} == {
        b"message": {"body": '{"a":"é"}', "headers": {"type": "App\\X"}}
    }
    assert json.loads(member).keys() == {"body", "headers", "uniqid"}
    assert 50_000 < score - time.time() * 1000 <= 61_000


@pytest.mark.parametrize("unique", ['"uniqid":"6b03de9c975d64.42121833",', ""], ids=["with uniqid", "without"])
def test_what_php_delayed_arrives_when_it_is_due(unique: str, drivers: Drivers, keys: Keys, php: redis.Redis) -> None:
    stream = keys.stream("orders")
    member = f'{{{unique}"body":"later","headers":{{"type":"a"}}}}'
    php.zadd(f"{stream}__queue", {member: time.time() * 1000 + 300}, nx=True)
    driver = drivers.open(stream)

    assert list(driver.get(10)) == []
    assert bodies(receive(driver, 1)) == [b"later"]
    assert php.zcard(f"{stream}__queue") == 0


def test_what_a_php_worker_left_is_delivered_after_redeliver_timeout(
    drivers: Drivers, keys: Keys, php: redis.Redis
) -> None:
    stream = keys.stream("orders")
    php.xgroup_create(stream, "symfony", "0", mkstream=True)
    php.xadd(stream, {"message": b'{"body":"left","headers":{}}'})
    php.xreadgroup("symfony", "consumer", {stream: ">"})
    driver = drivers.open(stream, redeliver_timeout=1, claim_interval=1)
    assert list(driver.get(10)) == []

    received: list[bytes] = []
    eventually(lambda: bool(received.extend(bodies(driver.get(1))) or received), "it is delivered", within=30)

    assert received == [b"left"]


def test_what_a_php_worker_holds_is_left_to_it(drivers: Drivers, keys: Keys, php: redis.Redis) -> None:
    stream = keys.stream("orders")
    php.xgroup_create(stream, "symfony", "0", mkstream=True)
    php.xadd(stream, {"message": b'{"body":"held","headers":{}}'})
    php.xreadgroup("symfony", "consumer", {stream: ">"})
    driver = drivers.open(stream)

    assert list(driver.get(10)) == []
    assert driver.counts().in_flight == 1


@pytest.mark.parametrize(
    ("settlement", "option"), [(Ack, "delete_after_ack"), (Discard, "delete_after_reject")], ids=["ack", "reject"]
)
def test_what_is_settled_stays_in_the_stream_if_that_is_wished(
    settlement: type[Ack | Discard], option: str, drivers: Drivers, keys: Keys, php: redis.Redis
) -> None:
    stream = keys.stream("orders")
    driver = drivers.open(stream, **{option: False})
    driver.send([outgoing()])

    driver.settle([settlement(receive(driver, 1)[0].claim)])

    assert php.xlen(stream) == 1
    assert driver.counts().ready == 0
    assert driver.counts().in_flight == 0
    assert list(driver.peek(10)) == []


def test_a_retry_goes_where_php_finds_it(drivers: Drivers, keys: Keys, php: redis.Redis) -> None:
    stream = keys.stream("orders")
    driver = drivers.open(stream)
    driver.send([outgoing(b"again")])

    driver.settle([Requeue(receive(driver, 1)[0].claim, outgoing(b"again"))])

    ((_, ((_, fields),)),) = php.xreadgroup("symfony", "consumer", {stream: ">"})
    assert from_value(fields[b"message"])[0] == b"again"
