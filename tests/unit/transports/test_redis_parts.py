"""The parts of the Redis driver that need no server: places, ids, values, errors."""

from __future__ import annotations

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from bus import headers as header_names
from bus.errors import AccessDeniedError, ConnectionLostError, TransportError
from bus.store.registry import StoreFactory
from bus.transports.dsn import Dsn
from bus.transports.redis.connection import NoSuchGroupError, OutcomeUnknownError, OutOfMemoryError, translated
from bus.transports.redis.entries import from_value, to_value
from bus.transports.redis.keys import Keys, origin_of, stream_and_group
from bus.transports.redis.options import Place, transport_options
from bus.transports.registry import DriverContext

TEXTS = st.text(max_size=20)


def place_of(dsn: str) -> Place:
    return transport_options("async", Dsn.parse(dsn), {})[1]


# --- values ---


@given(st.binary(max_size=50), st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_every_body_and_every_header_comes_back(body: bytes, headers: dict[str, str]) -> None:
    assert from_value(to_value(body, headers)) == (body, headers)


@given(st.binary(max_size=50))
def test_no_value_is_too_odd_to_be_read(value: bytes) -> None:
    body, _ = from_value(value)

    assert isinstance(body, bytes)


def test_a_header_that_looks_like_our_mark_comes_back() -> None:
    headers = {header_names.BODY_ENCODING: "base64"}

    assert from_value(to_value(b"\xff", headers)) == (b"\xff", headers)


def test_the_length_that_php_writes_counts_bytes() -> None:
    inner = '{"body":"é","headers":{"a":"b"}}'.encode()

    assert from_value(b's:%d:"%s";' % (len(inner), inner)) == ("é".encode(), {"a": "b"})
    assert from_value(b's:%d:"%s";' % (len(inner) - 1, inner))[1] == {}


# --- names and ids ---


@given(st.sampled_from(["orders", "a/b", "{x}y", "app:orders"]), st.sampled_from(["symfony", "billing"]))
def test_an_origin_names_stream_and_group(stream: str, group: str) -> None:
    assert stream_and_group(origin_of(stream, group)) == (stream, group)


@pytest.mark.parametrize(
    ("text", "kind", "stream"),
    [
        ("12-3", "entry", "orders"),
        ("retry-12-3", "entry", "orders.symfony.retry"),
        ("p7-12-3", "entry", "orders.7"),
        ("p7-retry-12-3", "entry", "orders.7.symfony.retry"),
        ("delayed-p7-1700000000000-0123456789abcdef", "delayed", "orders.7"),
        ("parked-12-3", "parked", "orders"),
        ("taken-parked-12-3", "taken", "orders"),
    ],
)
def test_an_id_says_where_a_message_stands(text: str, kind: str, stream: str) -> None:
    place = Keys("orders", "symfony").place(text)

    assert place is not None
    assert (place.kind, place.lane.stream) == (kind, stream)


@pytest.mark.parametrize("text", ["", "12", "no such id", "12-3-4", "p-1-2", "../x"])
def test_what_is_no_id_means_nothing(text: str) -> None:
    assert Keys("orders", "symfony").place(text) is None


def test_in_a_cluster_all_keys_have_one_hash_tag() -> None:
    keys = Keys("orders", "symfony", cluster=True)
    tagged = Keys("{shop}orders", "symfony", cluster=True)

    every = [
        keys.main.stream,
        keys.main.queue,
        keys.retry.queue,
        keys.parked,
        keys.wake,
        keys.sent("x"),
        keys.alive("y"),
    ]
    assert all(each.startswith("{orders}") for each in every)
    assert tagged.main.stream == "{shop}orders"
    assert keys.origin == "orders"


# --- places ---


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        ("redis://localhost", 'Redis at "localhost:6379"'),
        ("redis://a:1,b:2/orders", 'Redis cluster at "a:1,b:2"'),
        ("redis://a:1,redis://b:2,redis://c:3", 'Redis cluster at "a:1,b:2,c:3"'),
        ("redis://a,b/orders?sentinel_master=shop", 'Redis master "shop" of the Sentinels at "a:26379,b:26379"'),
        ("redis:///run/redis.sock", 'Redis at "/run/redis.sock"'),
    ],
)
def test_a_dsn_says_where_the_server_is(dsn: str, text: str) -> None:
    assert str(place_of(dsn)) == text


@pytest.mark.parametrize(
    "dsn", ["redis://s3cr3t@host", "redis://:s3cr3t@host", "redis://u:s3cr3t@host", "redis://host?auth=s3cr3t"]
)
def test_a_password_is_found_and_not_shown(dsn: str) -> None:
    place = place_of(dsn)

    assert place.password == "s3cr3t"
    assert "s3cr3t" not in f"{place} {place!r}"


@pytest.mark.parametrize(
    "dsn",
    ["redis://u:p%40ss%2F@host:7000/orders?dbindex=3", "rediss://a:1,b:2?read_timeout=2", "redis:///run/redis.sock"],
)
def test_the_store_of_a_transport_is_on_its_server(dsn: str) -> None:
    place = place_of(dsn)

    factory = StoreFactory(place.store_dsn("bus:"), DriverContext())

    store = factory.get()
    found = store._server.place  # type: ignore[attr-defined]
    assert (found.hosts, found.socket, found.user, found.password) == (
        place.hosts,
        place.socket,
        place.user,
        place.password,
    )
    assert (found.tls, found.options.dbindex, found.is_cluster) == (
        place.tls,
        place.options.dbindex,
        place.is_cluster,
    )


# --- errors ---


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), ConnectionLostError),
        (redis.ReadOnlyError("You can't write against a read only replica."), ConnectionLostError),
        (redis.ResponseError("MASTERDOWN Link with MASTER is down"), ConnectionLostError),
        (redis.ResponseError("CLUSTERDOWN The cluster is down"), ConnectionLostError),
        (redis.AuthenticationError("WRONGPASS invalid username-password pair"), AccessDeniedError),
        (redis.exceptions.NoPermissionError("no permissions to run this command"), AccessDeniedError),
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"), OutOfMemoryError),
        (redis.ResponseError("NOGROUP No such key"), NoSuchGroupError),
        (redis.TimeoutError("Timeout reading from socket"), OutcomeUnknownError),
        (redis.ConnectionError("Connection closed by server."), OutcomeUnknownError),
        (redis.ResponseError("WRONGTYPE Operation against a key"), TransportError),
    ],
)
def test_an_error_of_the_client_is_one_of_ours(error: redis.RedisError, kind: type[TransportError]) -> None:
    found = translated(place_of("redis://localhost"), error)

    assert type(found) is kind
    assert "localhost:6379" in str(found)
