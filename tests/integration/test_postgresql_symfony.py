"""One table in PostgreSQL for a PHP application's Doctrine transport and for this bus.

PHP's part is played by the rows, the tables and the statements that were captured from a real Symfony Messenger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from bus.errors import AccessDeniedError
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.base import Ack, Park, Requeue, Sent
from bus.transports.registry import DriverContext, create_driver
from bus.transports.sql.server.postgresql_driver import PostgresDriver
from tests.faults.waiting import wait_until

CAPTURES: Mapping[str, Any] = {
    item["id"]: item
    for item in json.loads((Path(__file__).parents[1] / "wire/doctrine_postgresql.json").read_text())["items"]
}
ROWS = [
    pytest.param(row, id=f"{name}-{row['id']}") for name, item in CAPTURES.items() for row in item.get("rows") or ()
]
SYMFONYS_SELECT = (
    "SELECT m.* FROM messenger_messages m WHERE (m.queue_name = %s) "
    "AND (m.delivered_at is null OR m.delivered_at < {now} - interval '3600 s') AND (m.available_at <= {now}) "
    "ORDER BY available_at ASC LIMIT 1 FOR UPDATE"
).replace("{now}", "date_trunc('second', statement_timestamp() AT TIME ZONE 'UTC')")

Open = Callable[..., PostgresDriver]


class Php:
    """What a PHP process does to the table."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)

    def execute(self, statement: str, parameters: Any = None) -> list[dict[str, Any]]:
        cursor = self.connection.execute(statement.encode(), parameters)
        return [] if cursor.description is None else cursor.fetchall()

    def create_table(self) -> None:
        # As Symfony executes them, in one go: the trigger's function is a statement of many lines.
        for statement in CAPTURES["plain"]["statements"]:
            if statement.startswith("CREATE"):
                self.execute(statement)

    def insert(self, body: str = "[]", headers: str = "{}", queue: str = "default") -> None:
        now = "date_trunc('second', statement_timestamp() AT TIME ZONE 'UTC')"
        self.execute(
            "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) "
            f"VALUES (%s, %s, %s, {now}, {now})",
            (body, headers, queue),
        )

    def get(self, queue: str = "default") -> dict[str, Any] | None:
        with self.connection.transaction():
            rows = self.execute(SYMFONYS_SELECT, (queue,))
            for row in rows:
                self.execute(
                    "UPDATE messenger_messages SET delivered_at = "
                    "date_trunc('second', statement_timestamp() AT TIME ZONE 'UTC') WHERE id = %s",
                    (row["id"],),
                )
        return rows[0] if rows else None

    def get_soon(self) -> dict[str, Any]:
        """Return the next row, for which a clock of whole seconds may have to tick."""
        rows: list[dict[str, Any]] = []

        def there_is_one() -> bool:
            row = self.get()
            if row is not None:
                rows.append(row)
            return row is not None

        wait_until(there_is_one, "PHP sees a message")
        return rows[0]

    def ack(self, row: Mapping[str, Any]) -> None:
        self.execute("DELETE FROM messenger_messages WHERE id = %s", (row["id"],))

    def let_time_pass(self, seconds: float) -> None:
        """Move the times of all rows into the past."""
        self.execute(
            f"UPDATE messenger_messages SET created_at = created_at - interval '{seconds} s', "
            f"available_at = available_at - interval '{seconds} s', "
            f"delivered_at = delivered_at - interval '{seconds} s'"
        )

    def columns(self) -> list[str]:
        found = self.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'messenger_messages'::regclass AND attnum > 0 "
            "ORDER BY attnum"
        )
        return [row["attname"] for row in found]


@pytest.fixture
def php(postgres_dsn: str) -> Iterator[Php]:
    php = Php(postgres_dsn)
    yield php
    php.connection.close()


@pytest.fixture
def open_postgres(postgres_dsn: str) -> Iterator[Open]:
    drivers: list[PostgresDriver] = []

    def open_postgres(**options: object) -> PostgresDriver:
        driver = create_driver("async", postgres_dsn, options, DriverContext())
        assert isinstance(driver, PostgresDriver)
        drivers.append(driver)
        return driver

    yield open_postgres
    for driver in drivers:
        driver.close()


@pytest.fixture
def shared(php: Php, open_postgres: Open) -> PostgresDriver:
    """Return a driver on a table that Symfony made."""
    php.create_table()
    return open_postgres()


def test_rows_of_symfony_are_delivered_as_they_are(php: Php, open_postgres: Open) -> None:
    php.create_table()
    driver = open_postgres()
    driver.set_up()
    for (row,) in (each.values for each in ROWS):
        php.execute("DELETE FROM messenger_messages")
        columns = [name for name in row if not name.startswith("_")]
        php.execute(
            f"INSERT INTO messenger_messages ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})",
            [row[name] for name in columns],
        )
        php.let_time_pass(10 * 365 * 86_400)

        taken = open_postgres(queue_name=row["queue_name"]).take(row["id"])

        assert taken is not None
        assert taken.body.decode() == row["body"]
        assert dict(taken.headers) == (json.loads(row["headers"]) or {})


def test_a_table_made_by_symfony_gets_our_columns_and_keeps_its_own(php: Php, shared: PostgresDriver) -> None:
    php.insert("before")
    theirs = php.columns()

    assert bodies(receive(shared, 1)) == [b"before"]

    assert php.columns() == [*theirs, "lane", "deliveries", "claim_token", "message_id"]
    assert list(shared.check()) == []
    php.insert("after")
    assert bodies(receive(shared, 1)) == [b"after"]


def test_symfony_reads_what_we_send_into_a_table_of_either(php: Php, open_postgres: Open) -> None:
    for made_by_symfony in (True, False):
        if made_by_symfony:
            php.create_table()
        driver = open_postgres()
        driver.send([outgoing("Grüße".encode(), headers={"type": "App\\Message\\Ping"})])

        row = php.get_soon()

        assert row["body"] == "Grüße"
        assert json.loads(row["headers"]) == {"type": "App\\Message\\Ping"}
        php.ack(row)
        assert driver.counts().ready == 0
        driver.close()
        php.execute("DROP TABLE messenger_messages")


def test_times_in_symfonys_table_are_cut_to_its_seconds(php: Php, shared: PostgresDriver) -> None:
    for _ in range(5):
        shared.send([outgoing()])

    (future,) = php.execute(
        "SELECT count(*) FROM messenger_messages WHERE available_at > statement_timestamp() AT TIME ZONE 'UTC'"
    )
    assert future["count"] == 0


def test_symfony_does_not_see_what_is_delayed_held_or_parked(php: Php, shared: PostgresDriver) -> None:
    shared.send([outgoing(b"held"), outgoing(b"parked")])
    held, parked = receive(shared, 2)
    shared.settle([Park(parked.claim, outgoing(b"parked"))])
    shared.send([outgoing(b"delayed", delay_ms=7200_000)])

    assert php.get() is None

    shared.settle([Requeue(held.claim, outgoing(b"again"))])
    row = php.get()
    assert row is not None
    assert row["body"] == "again"


def test_a_message_that_php_handles_is_not_ours_until_it_gave_up(php: Php, open_postgres: Open) -> None:
    php.create_table()
    driver = open_postgres(redeliver_timeout=60)
    php.insert("slow")
    row = php.get()
    assert row is not None

    assert list(driver.get(1)) == []
    assert driver.take(row["id"]) is None
    assert [each.state for each in driver.peek(1)] == ["in_flight"]
    php.let_time_pass(50)
    assert list(driver.get(1)) == []
    php.let_time_pass(15)
    assert bodies(receive(driver, 1)) == [b"slow"]


def test_a_message_that_php_took_after_our_lease_ended_is_phps(php: Php, shared: PostgresDriver) -> None:
    shared.send([outgoing(b"x")])
    claim = receive(shared, 1)[0].claim
    claim.begin()
    php.let_time_pass(3700)
    row = php.get()
    assert row is not None

    assert list(shared.get(1)) == []
    assert [each.state for each in shared.peek(1)] == ["in_flight"]


def test_a_message_that_php_removed_is_a_lost_claim(php: Php, shared: PostgresDriver) -> None:
    shared.send([outgoing()])
    claim = receive(shared, 1)[0].claim
    php.execute("DELETE FROM messenger_messages")

    assert list(shared.settle([Ack(claim)])) == [claim]


def test_where_the_table_may_not_be_changed_sending_works_and_consuming_tells_what_is_needed(
    php: Php, open_postgres: Open
) -> None:
    php.create_table()
    driver = open_postgres(auto_setup=False)
    theirs = php.columns()

    assert isinstance(driver.send([outgoing(b"x")])[0], Sent)
    assert driver.counts().ready == 1
    assert [each.body for each in driver.peek(1)] == [b"x"]
    with pytest.raises(AccessDeniedError) as raised:
        driver.get(1)
    assert "ALTER TABLE messenger_messages ADD COLUMN claim_token" in str(raised.value)
    assert php.columns() == theirs

    for line in driver.check():
        php.execute(line.partition(" needs: ")[2])
    assert bodies(receive(driver, 1)) == [b"x"]


def test_an_idle_php_worker_is_notified_of_what_we_send(php: Php, open_postgres: Open) -> None:
    driver = open_postgres()
    php.execute('LISTEN "messenger_messages"')

    driver.send([outgoing()])

    (heard,) = php.connection.notifies(timeout=10, stop_after=1)
    assert (heard.channel, heard.payload) == ("messenger_messages", "default")


def test_php_and_we_never_take_one_row_twice(php: Php, shared: PostgresDriver) -> None:
    shared.send([outgoing(str(number).encode()) for number in range(100)])
    taken: list[str] = []
    while len(taken) < 100:
        row = php.get()
        if row is not None:
            taken.append(row["body"])
            php.ack(row)
        claimed = shared.get(3)
        taken += [each.body.decode() for each in claimed]
        shared.settle([Ack(each.claim) for each in claimed])

    assert sorted(taken, key=int) == [str(number) for number in range(100)]
