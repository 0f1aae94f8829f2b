"""How SQLite carries the statements out, on a table of ours and on one that Symfony made."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from bus.transports.sql.connection import DIALECT
from bus.transports.sql.schema import Layout, messages_table, statements_to_set_up
from bus.transports.sql.sqlite_statements import SqliteBuilder, SqliteStatements
from bus.transports.sql.statements import compiled

CAPTURES = json.loads((Path(__file__).parents[2] / "wire/doctrine_sqlite.json").read_text())
PLAIN = next(item for item in CAPTURES["items"] if item["id"] == "plain")
SYMFONYS_TABLE = [each for each in PLAIN["schema"] if each.startswith("CREATE") and "sqlite_sequence" not in each]

TABLE = messages_table("messenger_messages")
STATEMENTS = compiled(SqliteStatements, SqliteBuilder(TABLE, complete=True), DIALECT)
VALUES = {
    "queue": "default",
    "lane": 0,
    "now": "2030-01-01 00:00:00.000",
    "php_gave_up": "2020-01-01 00:00:00.000",
    "limit": 100,
    "token": "x",
    "ids": "[1]",
}


@pytest.fixture(params=["ours", "symfony's"])
def connection(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    layout = None
    if request.param != "ours":
        for statement in SYMFONYS_TABLE:
            connection.execute(statement)
        layout = Layout(columns=frozenset(), has_index=False, whole_seconds=True)
    for statement in statements_to_set_up(TABLE, layout, DIALECT):
        connection.execute(statement)
    yield connection
    connection.close()


def fill(connection: sqlite3.Connection) -> None:
    source = random.Random(7)
    connection.executemany(
        "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at, delivered_at) "
        "VALUES ('{}', '{}', ?, ?, ?, ?)",
        [
            (
                source.choice(["default", "failed"]),
                "2026-01-01 00:00:00",
                f"2026-01-01 00:00:{source.randrange(60):02d}",
                source.choice([None, None, "2026-01-01 00:00:00"]),
            )
            for _ in range(3000)
        ],
    )
    connection.execute("ANALYZE")


def plan(connection: sqlite3.Connection, name: str) -> list[str]:
    statement = getattr(STATEMENTS, name)
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", VALUES)]


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "with statistics"])
def test_claiming_reads_one_range_of_one_index_in_its_order(connection: sqlite3.Connection, filled: bool) -> None:
    if filled:
        fill(connection)

    assert plan(connection, "ready") == [
        "SEARCH messenger_messages USING INDEX messenger_messages_claim (queue_name=? AND lane=? AND available_at<?)"
    ]


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "with statistics"])
def test_the_next_lane_is_one_step_down_the_index(connection: sqlite3.Connection, filled: bool) -> None:
    if filled:
        fill(connection)

    assert plan(connection, "next_lane") == [
        "SEARCH messenger_messages USING COVERING INDEX messenger_messages_claim (queue_name=? AND lane>?)"
    ]


@pytest.mark.parametrize("name", ["tokens", "free"])
def test_looking_for_dead_claims_reads_what_is_held_only(connection: sqlite3.Connection, name: str) -> None:
    fill(connection)

    assert plan(connection, name)[0] == (
        "SEARCH messenger_messages USING INDEX messenger_messages_claim (queue_name=? AND lane=? AND available_at=?)"
    )


def test_settling_finds_its_rows_by_their_key(connection: sqlite3.Connection) -> None:
    fill(connection)

    assert plan(connection, "owned")[0] == "SEARCH messenger_messages USING INTEGER PRIMARY KEY (rowid=?)"


@pytest.mark.parametrize("name", [each.name for each in fields(SqliteStatements)])
def test_every_parameter_of_a_statement_is_named(name: str) -> None:
    text = getattr(STATEMENTS, name)

    assert "?" not in text
    assert "param_" not in text
    assert "_1" not in text.replace("count_1", "").replace("min_1", "")


def test_a_table_that_has_everything_needs_nothing() -> None:
    everything = Layout(frozenset(column.name for column in TABLE.columns), has_index=True, whole_seconds=False)

    assert list(statements_to_set_up(TABLE, everything, DIALECT)) == []
