"""What the Redis driver does when connections, servers and other workers misbehave."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from bus.errors import AccessDeniedError, ConnectionLostError, SendRefused, SendUnknown, TransportError
from bus.testing.conformance.traffic import bodies, eventually, outgoing, receive
from bus.transports.base import Ack, Claim, Counts, Delivery, Driver, Park, Requeue, Sent, Settlement
from bus.transports.redis import RedisDriver
from bus.transports.redis.driver import RedisClaim
from tests.integration.redis_drivers import Drivers, drivers_on
from tests.servers.fixtures import private_redis
from tests.servers.proxy import Direction, Proxy
from tests.servers.redis import RedisServer

WITHIN = 40.0  # seconds; generous, for busy machines


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that the tests of this file share, each with an empty one."""
    with private_redis() as server:
        yield server


@pytest.fixture
def drivers(server: RedisServer) -> Iterator[Drivers]:
    with drivers_on(server.url) as drivers:
        yield drivers
    server.execute("CONFIG", "SET", "maxmemory", "0")
    server.execute("FLUSHALL")


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", server.port)) as proxy:
        yield proxy


def through(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}?read_timeout=1"


def receive_despite_errors(driver: Driver, count: int) -> list[Delivery]:
    received: list[Delivery] = []

    def enough() -> bool:
        try:
            received.extend(driver.get(count - len(received)))
        except TransportError:
            return False
        return len(received) >= count

    eventually(enough, f"{count} messages should have come", within=WITHIN)
    return received


# --- sends ---


def test_a_send_whose_answer_was_lost_is_not_stored_twice_when_it_is_repeated(
    drivers: Drivers, proxy: Proxy, server: RedisServer
) -> None:
    driver = drivers.open(base=through(proxy))
    driver.send([outgoing(b"first")])
    batch = [outgoing(b"second"), outgoing(b"third", delay_ms=60_000)]
    with proxy.swallowing(Direction.TO_CLIENT):
        assert [type(each) for each in driver.send(batch)] == [SendUnknown, SendUnknown]
    assert server.execute("XLEN", "orders") == 2, "it was stored"

    for each in batch:
        assert isinstance(driver.send([each])[0], Sent)

    assert server.execute("XLEN", "orders") == 2
    assert server.execute("ZCARD", "orders__queue") == 1


def test_a_send_that_never_reached_the_server_is_stored_when_it_is_repeated(
    drivers: Drivers, proxy: Proxy, server: RedisServer
) -> None:
    driver = drivers.open(base=through(proxy))
    driver.send([outgoing(b"first")])
    batch = [outgoing(b"second"), outgoing(b"third")]
    with proxy.swallowing(Direction.TO_SERVER):
        assert [type(each) for each in driver.send(batch)] == [SendUnknown, SendUnknown]
    assert server.execute("XLEN", "orders") == 1, "it was not stored"

    for each in batch:
        assert isinstance(driver.send([each])[0], Sent)

    assert server.execute("XLEN", "orders") == 3


def test_a_send_that_arrives_after_it_was_repeated_stores_nothing(
    drivers: Drivers, proxy: Proxy, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, message = drivers.open(base=through(proxy)), outgoing()
    driver.send([outgoing()])
    with monkeypatch.context() as patch:
        patch.setattr("bus.transports.redis.sending.secrets.token_hex", lambda _: "late")
        with proxy.swallowing(Direction.TO_SERVER):
            assert isinstance(driver.send([message])[0], SendUnknown)
    assert isinstance(driver.send([message])[0], Sent)

    monkeypatch.setattr("bus.transports.redis.sending.secrets.token_hex", lambda _: "late")
    assert not isinstance(drivers.open().send([message])[0], Sent)

    assert server.execute("XLEN", "orders") == 2


def test_the_same_message_may_be_sent_again_once_its_send_was_confirmed(drivers: Drivers, server: RedisServer) -> None:
    driver, message = drivers.open(), outgoing()
    for _ in range(2):
        assert isinstance(driver.send([message])[0], Sent)

    assert server.execute("XLEN", "orders") == 2


def test_sends_to_a_frozen_server_end_in_doubt_and_are_stored_once(own_redis: RedisServer) -> None:
    with drivers_on(f"{own_redis.url}?read_timeout=1") as drivers:
        driver, message = drivers.open(), outgoing()
        driver.send([outgoing()])
        own_redis.freeze()
        began = time.monotonic()
        assert isinstance(driver.send([message])[0], SendUnknown)
        assert time.monotonic() - began < 30
        assert isinstance(driver.send([message])[0], SendUnknown)

        own_redis.thaw()
        eventually(lambda: isinstance(driver.send([message])[0], Sent), "the server takes messages", within=WITHIN)

        assert own_redis.execute("XLEN", "orders") == 2


def test_a_send_to_a_server_that_is_not_there_is_not_in_doubt(own_redis: RedisServer) -> None:
    with drivers_on(own_redis.url) as drivers:
        driver = drivers.open()
        own_redis.kill()

        with pytest.raises(ConnectionLostError):
            driver.send([outgoing()])


def test_a_server_without_memory_refuses_messages_and_lets_them_be_handled(
    drivers: Drivers, server: RedisServer
) -> None:
    driver = drivers.open()
    driver.send([outgoing(b"x" * 1000) for _ in range(4)])
    driver.send([outgoing(b"due", delay_ms=1)])
    server.execute("CONFIG", "SET", "maxmemory", "1")

    (refused,) = driver.send([outgoing()])
    assert isinstance(refused, SendRefused)
    assert "maxmemory" in str(refused)
    done, again, parked, kept = (each.claim for each in receive(driver, 4))
    assert list(driver.settle([Requeue(again, outgoing(b"again"))])) == []
    assert list(driver.settle([Park(parked, outgoing(b"parked")), Ack(done)])) == []
    driver.give_back()
    assert kept.withdrawn

    server.execute("CONFIG", "SET", "maxmemory", "0")
    assert sorted(bodies(receive(driver, 3))) == [b"again", b"due", b"x" * 1000]


def test_a_replica_is_no_place_for_messages(drivers: Drivers, own_redis: RedisServer, server: RedisServer) -> None:
    own_redis.execute("REPLICAOF", "127.0.0.1", server.port)
    driver = drivers.open(base=own_redis.url)

    with pytest.raises(ConnectionLostError, match="read only replica"):
        driver.send([outgoing()])


def test_wrong_credentials_are_said_without_the_password(drivers: Drivers, server: RedisServer) -> None:
    driver = drivers.open(base=f"redis://somebody:s3cr3t@127.0.0.1:{server.port}")

    with pytest.raises(AccessDeniedError) as raised:
        driver.send([outgoing()])
    with pytest.raises(AccessDeniedError):
        driver.get(1)

    assert "s3cr3t" not in str(raised.value)


# --- reads ---


def test_what_a_lost_answer_held_comes_again_uncounted(drivers: Drivers, proxy: Proxy) -> None:
    driver = drivers.open(base=through(proxy))
    assert list(driver.get(10)) == []
    drivers.open().send([outgoing(str(number).encode()) for number in range(5)])
    with proxy.swallowing(Direction.TO_CLIENT), pytest.raises(ConnectionLostError):
        driver.get(10)

    received = receive_despite_errors(driver, 5)

    assert bodies(received) == [str(number).encode() for number in range(5)]
    assert {each.claim.deliveries for each in received} == {1}


def test_clients_that_are_killed_lose_nothing(drivers: Drivers, server: RedisServer) -> None:
    driver, sender = drivers.open(), drivers.open()
    handled: set[bytes] = set()
    sent: set[bytes] = set()
    for number in range(60):
        message = outgoing(str(number).encode())
        if number % 6 == 0:
            server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        eventually(lambda message=message: is_sent(sender, message), "it is sent", within=WITHIN)
        sent.add(message.body)
        if number % 5 == 0:
            handle(driver, 3, handled)

    eventually(lambda: handle(driver, 20, handled) and handled == sent, "all are handled", within=WITHIN)
    assert driver.counts().in_flight == 0


def is_sent(driver: RedisDriver, message: object) -> bool:
    try:
        return isinstance(driver.send([message])[0], Sent)  # type: ignore[list-item]
    except TransportError:
        return False


def handle(driver: RedisDriver, limit: int, handled: set[bytes]) -> bool:
    try:
        deliveries = driver.get(limit)
    except TransportError:
        return False
    handled.update(bodies(deliveries))
    settle_despite_errors(driver, [each.claim for each in deliveries])
    return True


def settle_despite_errors(driver: RedisDriver, claims: list[Claim]) -> None:
    def settled() -> bool:
        try:
            driver.settle([Ack(claim) for claim in claims])
        except TransportError:
            return False
        return True

    eventually(settled, "they are settled", within=WITHIN)


def test_a_group_that_is_gone_is_made_again_and_said(
    drivers: Drivers, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    driver = drivers.open()
    driver.send([outgoing(b"before")])
    claim = receive(driver, 1)[0].claim
    server.execute("FLUSHALL")
    driver.send([outgoing(b"after")])

    with caplog.at_level(logging.ERROR):
        received = receive(driver, 1)

    assert bodies(received) == [b"after"]
    assert 'Group "symfony" of stream "orders" was gone' in caplog.text
    assert list(driver.settle([Ack(claim)])) == [claim]


def test_a_group_is_not_made_without_leave(drivers: Drivers) -> None:
    driver = drivers.open(auto_setup=False)
    driver.send([outgoing()])

    with pytest.raises(AccessDeniedError, match="bus setup-transports"):
        driver.get(1)
    assert len(driver.check()) == 1
    driver.set_up()

    assert list(driver.check()) == []
    assert len(receive(driver, 1)) == 1


def test_an_entry_that_was_trimmed_while_it_was_free_is_said_and_holds_up_nothing(
    drivers: Drivers, server: RedisServer
) -> None:
    first, second = drivers.open(), drivers.open()
    first.send([outgoing(b"trimmed")])
    claim = receive(first, 1)[0].claim
    first.give_back()
    server.execute("XDEL", "orders", str(claim.transport_id))
    first.send([outgoing(b"next")])

    assert bodies(receive(second, 1)) == [b"next"]
    eventually(lambda: second.counts().ready == 0, "nothing is left", within=WITHIN)


def test_a_claim_that_was_stolen_is_withdrawn_and_cannot_be_settled(drivers: Drivers, server: RedisServer) -> None:
    driver = drivers.open()
    driver.send([outgoing(b"stolen"), outgoing(b"kept")])
    stolen, kept = (each.claim for each in receive(driver, 2))
    server.execute("XCLAIM", "orders", "symfony", "thief", 0, str(stolen.transport_id))

    eventually(lambda: stolen.withdrawn, "the driver notices", within=WITHIN)

    assert not stolen.begin()
    assert list(driver.settle([Ack(stolen), Ack(kept)])) == [stolen]
    assert server.execute("XLEN", "orders") == 1


@pytest.mark.parametrize(
    "settle", [Ack, lambda claim: Requeue(claim, outgoing()), lambda claim: Park(claim, outgoing())]
)
def test_a_settlement_right_after_the_theft_touches_nothing(
    settle: Callable[[Claim], Settlement], drivers: Drivers, server: RedisServer
) -> None:
    driver = drivers.open()
    driver.send([outgoing(b"stolen")])
    claim = receive(driver, 1)[0].claim
    claim.begin()
    server.execute("XCLAIM", "orders", "symfony", "thief", 0, str(claim.transport_id))

    assert list(driver.settle([settle(claim)])) == [claim]

    assert server.execute("XLEN", "orders") == 1
    assert driver.counts() == Counts(ready=0, delayed=0, in_flight=1, parked=0)


def test_a_suspect_behind_innocents_that_were_given_back_comes_alone(drivers: Drivers) -> None:
    first, second = drivers.open(), drivers.open()
    first.send([outgoing(b"innocent"), outgoing(b"suspect"), outgoing(b"innocent")])
    receive(first, 3)[1].claim.begin()
    first.close()

    assert [bodies(second.get(10)) for _ in range(3)] == [[b"innocent"], [b"suspect"], [b"innocent"]]


def test_what_is_held_for_long_is_not_idle_for_others(drivers: Drivers, server: RedisServer) -> None:
    driver = drivers.open()
    driver.send([outgoing()])
    claim = receive(driver, 1)[0].claim

    def idle_and_count() -> tuple[int, int]:
        with closing(server.client()) as client:
            (entry,) = client.xpending_range("orders", "symfony", "-", "+", 10)
        return entry["time_since_delivered"], entry["times_delivered"]

    eventually(lambda: idle_and_count()[0] > 1000, "it is held for a while", within=WITHIN)
    eventually(lambda: idle_and_count()[0] < 1000, "its time begins anew", within=WITHIN)

    assert idle_and_count()[1] == 1
    assert claim.begin()
    assert list(driver.settle([Ack(claim)])) == []


def test_nothing_begins_that_others_may_have_taken_meanwhile(own_redis: RedisServer) -> None:
    with drivers_on(f"{own_redis.url}?read_timeout=1") as drivers:
        driver = drivers.open()
        driver.send([outgoing()])
        claim = receive(driver, 1)[0].claim
        assert isinstance(claim, RedisClaim)
        own_redis.kill()

        eventually(lambda: claim.heart.is_over, "the claim runs out", within=WITHIN)

        assert not claim.begin()
        own_redis.start()
        (again,) = receive_despite_errors(driver, 1)
        assert again.claim.deliveries == 1


# --- groups, streams, consumers ---


def test_groups_do_not_remove_each_others_messages(drivers: Drivers, server: RedisServer) -> None:
    receipts, stock = drivers.open(group="receipts"), drivers.open(group="stock")
    for each in (receipts, stock):
        each.set_up()
    receipts.send([outgoing(str(number).encode()) for number in range(10)])

    receipts.settle([Ack(each.claim) for each in receive(receipts, 10)])

    assert server.execute("XLEN", "orders") == 10
    assert len(receive(stock, 10)) == 10
    assert receipts.counts().ready == 0
    assert stock.counts().in_flight == 10


def test_a_stream_is_trimmed_only_where_every_group_is_done(drivers: Drivers, server: RedisServer) -> None:
    fast = drivers.open(group="fast", stream_max_entries=5)
    slow = drivers.open(group="slow", stream_max_entries=5)
    for each in (fast, slow):
        each.set_up()
    fast.send([outgoing(str(number).encode()) for number in range(20)])
    fast.settle([Ack(each.claim) for each in receive(fast, 20)])
    fast.send([outgoing(b"20")])
    assert server.execute("XLEN", "orders") == 21, "the slow group has read none of them"

    first, *rest = receive(slow, 20)
    slow.settle([Ack(each.claim) for each in rest])
    slow.send([outgoing(b"21")])
    assert server.execute("XLEN", "orders") == 22, "the first one is still pending"

    slow.settle([Ack(first.claim)])
    slow.send([outgoing(b"22")])

    assert server.execute("XLEN", "orders") == 5
    assert bodies(receive(slow, 3)) == [b"20", b"21", b"22"]
    assert bodies(receive(fast, 3)) == [b"20", b"21", b"22"]


def test_consumers_leave_no_name_behind(drivers: Drivers, server: RedisServer) -> None:
    driver = drivers.open(consumer="web")
    driver.send([outgoing()])
    claim = receive(driver, 1)[0].claim
    (consumer,) = server.execute("XINFO", "CONSUMERS", "orders", "symfony")
    assert consumer["name"].startswith("web-")
    driver.settle([Ack(claim)])

    driver.close()

    assert server.execute("XINFO", "CONSUMERS", "orders", "symfony") == []
    assert [key for key in server.execute("KEYS", "*") if "alive" in key] == []


def test_a_waiting_worker_is_woken_by_a_short_delay_that_another_process_set(drivers: Drivers) -> None:
    driver, other = drivers.open(), drivers.open()
    woken: list[float] = []
    driver.on_arrival(lambda: woken.append(time.monotonic()))
    assert list(driver.get(1)) == []
    began = time.monotonic()
    other.send([outgoing(b"later", delay_ms=300)])

    received: list[bytes] = []

    def it_came() -> bool:
        if woken:
            woken.clear()
            received.extend(bodies(driver.get(1)))
        return bool(received)

    eventually(it_came, "the delayed message wakes the worker", within=WITHIN)

    assert time.monotonic() - began > 0.2


def test_an_idle_worker_asks_little(drivers: Drivers, server: RedisServer) -> None:
    driver = drivers.open()
    driver.on_arrival(lambda: None)
    assert list(driver.get(1)) == []
    with closing(server.client()) as client:
        before = int(client.info("stats")["total_commands_processed"])
        began = time.monotonic()
        eventually(lambda: time.monotonic() > began + 3, "time passes", within=WITHIN)

        commands = int(client.info("stats")["total_commands_processed"]) - before
        seconds = time.monotonic() - began

    assert commands / seconds < 50, "with those that scripts make"


# --- what is said at the start ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param((), "loses messages when it ends", id="no persistence"),
        pytest.param(("--maxmemory-policy", "allkeys-lru"), 'maxmemory-policy "allkeys-lru"', id="eviction"),
    ],
)
def test_a_dangerous_server_is_said_when_a_worker_starts(
    settings: tuple[str, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with private_redis(*settings, persistent=False) as server, drivers_on(server.url) as drivers:
        driver = drivers.open()
        with caplog.at_level(logging.WARNING):
            driver.get(1)

        assert said in caplog.text
        assert any(said in each for each in driver.check())


def test_a_safe_server_is_not_talked_about(drivers: Drivers, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        drivers.open().get(1)

    assert caplog.records == []


def test_a_unix_socket_is_a_way_to_the_server(drivers: Drivers, server: RedisServer) -> None:
    driver = drivers.open(base=f"redis://{server.socket}")

    driver.send([outgoing(b"message")])

    assert bodies(receive(driver, 1)) == [b"message"]


def test_databases_are_apart(drivers: Drivers) -> None:
    drivers.open(dbindex=3).send([outgoing()])

    assert list(drivers.open().get(1)) == []
    assert len(receive(drivers.open(dbindex=3), 1)) == 1


def test_the_values_of_delayed_messages_differ(drivers: Drivers, server: RedisServer) -> None:
    message = outgoing(delay_ms=60_000)
    driver = drivers.open()
    driver.send([message, message])

    members = server.execute("ZRANGE", "orders__queue", 0, -1)

    assert len({json.loads(each)["uniqid"] for each in members}) == 2
