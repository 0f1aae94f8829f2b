"""Leases in PostgreSQL: what keeps them, what ends them, and who gets the message then."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.base import Ack, Requeue
from bus.transports.registry import DriverContext, create_driver
from bus.transports.sql.server.leases import LeasedClaim
from bus.transports.sql.server.postgresql_driver import PostgresDriver


class Database:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.drivers: list[PostgresDriver] = []

    def open(self) -> PostgresDriver:
        driver = create_driver("async", self.dsn, {}, DriverContext())
        assert isinstance(driver, PostgresDriver)
        self.drivers.append(driver)
        return driver

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def end_leases(self) -> None:
        """Let the time of all leases pass, as it does when their holder is dead."""
        self.execute(
            "UPDATE messenger_messages SET available_at = available_at - interval '16 s', "
            "delivered_at = delivered_at - interval '16 s' WHERE delivered_at IS NOT NULL"
        )


@pytest.fixture
def database(postgres_dsn: str) -> Iterator[Database]:
    database = Database(postgres_dsn)
    yield database
    for driver in database.drivers:
        driver.close()


def test_what_a_dead_worker_held_comes_back_counted_and_alone(database: Database) -> None:
    dead, alive = database.open(), database.open()
    dead.send([outgoing(b"1"), outgoing(b"2")])
    receive(dead, 2)
    assert list(alive.get(10)) == []

    database.end_leases()

    first, second = list(alive.get(10)), list(alive.get(10))
    assert [each.claim.deliveries for each in first + second] == [2, 2]


def test_a_lease_is_renewed_while_its_holder_lives(database: Database) -> None:
    driver, other = database.open(), database.open()
    driver.send([outgoing()])
    receive(driver, 1)
    database.execute("UPDATE messenger_messages SET available_at = available_at - interval '10 s'")

    driver._renew()

    ((seconds,),) = database.execute(
        "SELECT extract(epoch FROM available_at - statement_timestamp() AT TIME ZONE 'UTC') FROM messenger_messages"
    )
    assert 6 < float(str(seconds)) <= 15
    assert list(other.get(1)) == []


def test_a_late_settlement_touches_nothing_of_the_new_holder(database: Database) -> None:
    late, new = database.open(), database.open()
    late.send([outgoing(b"x")])
    stolen = receive(late, 1)[0].claim
    stolen.begin()
    database.end_leases()
    claim = receive(new, 1)[0].claim

    assert list(late.settle([Requeue(stolen, outgoing(b"not mine"))])) == [stolen]
    assert list(new.settle([Ack(claim)])) == []


def test_a_claim_whose_lease_ran_out_cannot_begin(database: Database) -> None:
    driver = database.open()
    driver.send([outgoing()])
    claim = receive(driver, 1)[0].claim
    assert isinstance(claim, LeasedClaim)
    claim.claimed_at -= 60

    assert not claim.begin()


def test_what_ran_out_before_it_was_begun_is_given_back_uncounted(database: Database) -> None:
    driver, other = database.open(), database.open()
    driver.send([outgoing(b"x")])
    claim = receive(driver, 1)[0].claim
    assert isinstance(claim, LeasedClaim)
    claim.claimed_at -= 60

    driver._renew()

    assert claim.withdrawn
    (delivery,) = receive(other, 1)
    assert (delivery.body, delivery.claim.deliveries) == (b"x", 1)


def test_what_was_begun_is_renewed_even_late_if_nobody_took_it(database: Database) -> None:
    driver, other = database.open(), database.open()
    driver.send([outgoing()])
    claim = receive(driver, 1)[0].claim
    claim.begin()
    database.end_leases()

    driver._renew()

    assert list(other.get(1)) == []
    assert list(driver.settle([Ack(claim)])) == []


def test_the_clock_of_a_worker_does_not_matter(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)
    driver = database.open()
    driver.send([outgoing(b"now"), outgoing(b"later", delay_ms=60_000)])

    assert bodies(receive(driver, 1)) == [b"now"]
    assert list(driver.get(1)) == []


def test_a_claim_reads_one_range_of_the_index(database: Database) -> None:
    driver = database.open()
    driver.send([outgoing()])
    receive(driver, 1)
    database.execute(
        "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) "
        "SELECT 'x', '{}', 'default', now(), now() + interval '1 day' FROM generate_series(1, 20000)"
    )
    driver.send([outgoing(b"due")])
    table = driver._prepared.claimable()

    with psycopg.connect(database.dsn) as connection:
        connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        cursor = psycopg.ClientCursor(connection)
        parameters = {"queue": "default", "token": "t", "beside": [0], "limit": 50}
        cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + table.statements.claim, parameters)
        ((plan,),) = cursor.fetchall()
        connection.rollback()

    top = plan[0]["Plan"]
    assert "Seq Scan on messenger_messages" not in str(plan)
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 200
