"""One table for a PHP application's Doctrine transport and for this bus.

PHP's part is played by the rows, the tables and the statements that were captured from a real Symfony Messenger.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bus.errors import AccessDeniedError
from bus.testing.clock import FakeClock
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.base import Ack, Park, Requeue, Sent
from bus.transports.sql import SqlDriver

CAPTURES: Mapping[str, Any] = {
    item["id"]: item
    for item in json.loads((Path(__file__).parents[1] / "wire/doctrine_sqlite.json").read_text())["items"]
}
ROWS = [pytest.param(row, id=f"{name}-{row['id']}") for name, item in CAPTURES.items() for row in item["rows"]]

# Symfony's statement, without FOR UPDATE, which SQLite does not know and Doctrine leaves out there.
SYMFONYS_SELECT = (
    "SELECT m.* FROM messenger_messages m WHERE (m.delivered_at is null OR m.delivered_at < ?) "
    "AND (m.available_at <= ?) AND (m.queue_name = ?) ORDER BY available_at ASC LIMIT 1"
)

Open = Callable[..., SqlDriver]


def text(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


class Php:
    """What a PHP process does to the table."""

    def __init__(self, database: Path, clock: FakeClock) -> None:
        self.connection = sqlite3.connect(database, isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self._clock = clock

    def create_table(self, like: str = "plain") -> None:
        for statement in CAPTURES[like]["schema"]:
            if statement.startswith("CREATE") and "sqlite_sequence" not in statement:
                self.connection.execute(statement)

    def insert(self, body: str = "[]", headers: str = "{}", queue: str = "default", delay: int = 0) -> None:
        now = self._clock.now()
        self.connection.execute(
            "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES (?,?,?,?,?)",
            (body, headers, queue, text(now), text(now + delay)),
        )

    def get(self, queue: str = "default") -> sqlite3.Row | None:
        now = self._clock.now()
        self.connection.execute("BEGIN")
        row = self.connection.execute(SYMFONYS_SELECT, (text(now - 3600), text(now), queue)).fetchone()
        if row is not None:
            self.connection.execute(
                "UPDATE messenger_messages SET delivered_at = ? WHERE id = ?", (text(now), row["id"])
            )
        self.connection.execute("COMMIT")
        assert row is None or isinstance(row, sqlite3.Row)
        return row

    def ack(self, row: sqlite3.Row) -> None:
        self.connection.execute("DELETE FROM messenger_messages WHERE id = ?", (row["id"],))

    def columns(self) -> list[str]:
        return [row["name"] for row in self.connection.execute("PRAGMA table_info(messenger_messages)")]

    def row(self, number: int) -> sqlite3.Row:
        found = self.connection.execute("SELECT * FROM messenger_messages WHERE id = ?", (number,)).fetchone()
        assert isinstance(found, sqlite3.Row)
        return found


@pytest.fixture
def php(database: Path, clock: FakeClock) -> Iterator[Php]:
    php = Php(database, clock)
    yield php
    php.connection.close()


@pytest.fixture
def shared(php: Php, open_sqlite: Open) -> SqlDriver:
    """Return a driver on a table that Symfony made."""
    php.create_table()
    return open_sqlite()


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_symfony_is_delivered_as_it_is(
    php: Php, open_sqlite: Open, clock: FakeClock, row: dict[str, Any]
) -> None:
    php.create_table()
    columns = [name for name in row if not name.startswith("_")]
    marks = ", ".join("?" * len(columns))
    php.connection.execute(
        f"INSERT INTO messenger_messages ({', '.join(columns)}) VALUES ({marks})", [row[name] for name in columns]
    )
    clock.set(2_000_000_000)

    delivery = receive(open_sqlite(queue_name=row["queue_name"]), 1)[0]

    assert delivery.body.decode() == row["body"]
    assert dict(delivery.headers) == (json.loads(row["headers"]) or {})
    assert delivery.claim.transport_id == row["id"]
    assert delivery.claim.deliveries == 1


def test_a_table_made_by_symfony_gets_our_columns_and_keeps_its_own(php: Php, shared: SqlDriver) -> None:
    php.insert("before")
    theirs = php.columns()

    assert bodies(receive(shared, 1)) == [b"before"]

    assert php.columns() == [*theirs, "lane", "deliveries", "claim_token", "message_id"]
    assert list(shared.check()) == []
    php.insert("after")
    assert bodies(receive(shared, 1)) == [b"after"]


def test_a_table_of_another_name_works_alike(php: Php, open_sqlite: Open) -> None:
    php.create_table("own_table_and_queue")
    driver = open_sqlite(table_name="my_messages", queue_name="high")

    driver.send([outgoing(b"x")])

    assert bodies(receive(driver, 1)) == [b"x"]


def test_symfony_reads_what_we_send(php: Php, shared: SqlDriver) -> None:
    shared.send([outgoing("Grüße".encode(), headers={"type": "App\\Message\\Ping"})])

    row = php.get()

    assert row is not None
    assert row["body"] == "Grüße"
    assert json.loads(row["headers"]) == {"type": "App\\Message\\Ping"}
    php.ack(row)
    assert shared.counts().ready == 0


def test_times_in_symfonys_table_are_floored_to_its_seconds(php: Php, shared: SqlDriver, clock: FakeClock) -> None:
    clock.set(1_700_000_000.9)

    shared.send([outgoing(delay_ms=1500)])
    now, later = text(1_700_000_000), text(1_700_000_002)

    assert (php.row(1)["created_at"], php.row(1)["available_at"]) == (now, later)
    clock.set(1_700_000_002)
    receive(shared, 1)
    assert php.row(1)["delivered_at"] == later


def test_symfony_does_not_see_what_is_delayed_held_or_parked(php: Php, shared: SqlDriver, clock: FakeClock) -> None:
    shared.send([outgoing(b"held"), outgoing(b"parked")])
    held, parked = receive(shared, 2)
    shared.settle([Park(parked.claim, outgoing(b"parked"))])
    shared.send([outgoing(b"delayed", delay_ms=7200_000)])

    assert php.get() is None
    clock.advance(3601)
    assert php.get() is None, "a claim of a living worker does not run out"

    shared.settle([Requeue(held.claim, outgoing(b"again"))])
    row = php.get()
    assert row is not None
    assert row["body"] == "again"


def test_a_message_that_php_handles_is_not_ours_until_it_gave_up(php: Php, open_sqlite: Open, clock: FakeClock) -> None:
    php.create_table()
    driver = open_sqlite(redeliver_timeout=60)
    php.insert("slow")
    assert php.get() is not None

    assert list(driver.get(1)) == []
    assert driver.take(1) is None
    assert [each.state for each in driver.peek(1)] == ["in_flight"]
    clock.advance(60)
    assert list(driver.get(1)) == []
    clock.advance(1.001)
    assert bodies(receive(driver, 1)) == [b"slow"]


def test_a_message_that_php_removed_is_a_lost_claim(php: Php, shared: SqlDriver) -> None:
    shared.send([outgoing()])
    claim = receive(shared, 1)[0].claim
    php.ack(php.row(1))

    assert list(shared.settle([Ack(claim)])) == [claim]


def test_messages_of_both_come_in_the_order_of_their_time(php: Php, shared: SqlDriver, clock: FakeClock) -> None:
    for number in range(3):
        php.insert(f"php {number}")
        shared.send([outgoing(f"python {number}".encode())])
        clock.advance(1)

    assert bodies(receive(shared, 6)) == [
        f"{who} {number}".encode() for number in range(3) for who in ("php", "python")
    ]


def test_where_the_table_may_not_be_changed_sending_works_and_consuming_tells_what_is_needed(
    php: Php, open_sqlite: Open
) -> None:
    php.create_table()
    driver = open_sqlite(auto_setup=False)
    theirs = php.columns()

    assert isinstance(driver.send([outgoing(b"x")])[0], Sent)
    assert driver.counts().ready == 1
    assert [each.body for each in driver.peek(1)] == [b"x"]
    with pytest.raises(AccessDeniedError) as raised:
        driver.get(1)

    assert "ALTER TABLE messenger_messages ADD COLUMN claim_token" in str(raised.value)
    assert php.columns() == theirs


def test_the_statements_that_are_told_make_a_table_consumable(php: Php, open_sqlite: Open) -> None:
    php.create_table()
    driver = open_sqlite(auto_setup=False)
    driver.send([outgoing(b"x")])
    with pytest.raises(AccessDeniedError):
        driver.get(1)

    for line in driver.check():
        php.connection.execute(line.partition(" needs: ")[2])

    assert bodies(receive(driver, 1)) == [b"x"]


@pytest.mark.parametrize("headers", ["", "null", "[", '{"type": 5}', '["a"]', "\x00"])
def test_a_row_that_makes_no_sense_does_not_stand_in_the_way(php: Php, shared: SqlDriver, headers: str) -> None:
    php.insert("bad", headers)
    php.connection.execute("UPDATE messenger_messages SET body = CAST(x'ff00fe' AS TEXT)")
    php.insert("good", "{}")

    received = receive(shared, 2)

    assert bodies(received) == [b"\xff\x00\xfe", b"good"]
