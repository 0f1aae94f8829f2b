"""What PostgreSQL may do to the driver: cut connections, refuse to write, freeze, crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from bus.errors import AccessDeniedError, ConnectionLostError, SendRefused, SendUnknown, TransportError
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.base import Ack, Driver, Sent, Wakes
from bus.transports.registry import DriverContext, create_driver
from tests.faults.waiting import wait_until
from tests.servers.databases import private_postgres
from tests.servers.postgres import Postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with private_postgres() as server:
        yield server


@pytest.fixture
def dsn(server: Postgres) -> str:
    return server.make_database()


@pytest.fixture
def driver(dsn: str) -> Iterator[Driver]:
    driver = create_driver("async", dsn, {}, DriverContext())
    yield driver
    driver.close()


def test_connections_that_were_cut_while_idle_are_replaced(server: Postgres, driver: Driver) -> None:
    driver.send([outgoing(b"1")])
    claim = receive(driver, 1)[0].claim

    server.terminate_backends()
    assert isinstance(driver.send([outgoing(b"2")])[0], Sent)
    server.terminate_backends()
    assert list(driver.settle([Ack(claim)])) == []
    server.terminate_backends()
    assert bodies(receive(driver, 1)) == [b"2"]


def test_nothing_is_lost_or_surfaces_when_connections_are_cut_under_load(server: Postgres, driver: Driver) -> None:
    sent: set[bytes] = set()
    received: list[bytes] = []
    stop, all_sent = threading.Event(), threading.Event()
    driver.send([])

    def send() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            body = str(number).encode()
            if isinstance(driver.send([outgoing(body)])[0], Sent):
                sent.add(body)

    def consume() -> None:
        while not all_sent.is_set() or not sent <= set(received):
            try:
                claimed = driver.get(10)
                received.extend(bodies(claimed))
                driver.settle([Ack(each.claim) for each in claimed])
            except SendUnknown:  # the caller settles again; what is claimed under a lost answer comes back in 15 s
                driver.close()

    with ThreadPoolExecutor(2) as pool:
        sending, consuming = pool.submit(send), pool.submit(consume)
        for _ in range(5):
            time.sleep(0.3)
            server.terminate_backends()
        stop.set()
        sending.result(60)
        all_sent.set()
        consuming.result(60)

    assert sent
    assert sent <= set(received)


def test_a_server_that_is_no_longer_primary_is_waited_for(server: Postgres, driver: Driver) -> None:
    driver.send([outgoing(b"before")])
    with ThreadPoolExecutor(1) as pool:
        with server.read_only():
            sending = pool.submit(driver.send, [outgoing(b"during")])
            time.sleep(0.5)
        (result,) = sending.result(20)

    assert isinstance(result, Sent)
    assert bodies(receive(driver, 2)) == [b"before", b"during"]


def test_a_server_that_hangs_does_not_hang_the_sender(server: Postgres, driver: Driver) -> None:
    driver.send([outgoing(b"before")])
    began = time.monotonic()
    with server.frozen():
        (result,) = driver.send([outgoing(b"lost?")])
        took = time.monotonic() - began

    assert isinstance(result, SendUnknown)
    assert took < 15
    assert isinstance(driver.send([outgoing(b"after")])[0], Sent)


def test_a_server_that_is_down_refuses_and_comes_back(server: Postgres, driver: Driver) -> None:
    driver.send([outgoing(b"before")])
    server.kill()
    try:
        assert isinstance(driver.send([outgoing(b"refused")])[0], SendRefused)
        with pytest.raises(ConnectionLostError):
            driver.get(1)
    finally:
        server.start()

    assert bodies(receive(driver, 1)) == [b"before"]


def test_a_worker_hears_of_messages_again_after_its_connection_was_cut(server: Postgres, driver: Driver) -> None:
    assert isinstance(driver, Wakes)
    woken = threading.Event()
    driver.send([outgoing()])
    driver.on_arrival(woken.set)
    assert woken.wait(10)
    woken.clear()

    server.terminate_backends()

    assert woken.wait(10), "it looks once when it listens again"


def test_what_this_user_may_not_do_is_told_at_once(server: Postgres, dsn: str) -> None:
    server.execute("DROP ROLE IF EXISTS guest")
    server.execute("CREATE ROLE guest LOGIN")
    as_guest = create_driver("async", dsn.replace("postgres@", "guest@"), {}, DriverContext())
    nowhere = create_driver("async", f"{dsn}_no_such_database", {}, DriverContext())

    for driver in (as_guest, nowhere):
        began = time.monotonic()
        with pytest.raises(AccessDeniedError):
            driver.get(1)
        assert time.monotonic() - began < 20
        driver.close()


def test_a_deadlock_is_tried_again(server: Postgres, dsn: str, driver: Driver) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    driver.send([outgoing(b"1"), outgoing(b"2")])
    first, second = (each.claim for each in receive(driver, 2))
    with psycopg.connect(dsn) as other:
        other.execute("SET deadlock_timeout = '10s'")
        other.execute("SELECT 1 FROM messenger_messages WHERE id = %s FOR UPDATE", (second.transport_id,))
        with ThreadPoolExecutor(1) as pool:
            settling = pool.submit(driver.settle, [Ack(first), Ack(second)])
            wait_until(lambda: server.execute(waiting) != [(0,)], "the settlement waits")
            other.execute("SELECT 1 FROM messenger_messages WHERE id = %s FOR UPDATE", (first.transport_id,))
            other.rollback()
            assert list(settling.result(30)) == []


def test_processes_that_set_up_at_once_do_not_disturb_each_other(dsn: str) -> None:
    drivers = [create_driver("async", dsn, {}, DriverContext()) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda driver: driver.send([outgoing()])[0], drivers))
    for driver in drivers:
        driver.close()

    assert not [each for each in results if isinstance(each, TransportError)]
