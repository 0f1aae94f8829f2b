from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bus import AccessDeniedError, ConnectionLostError, SqlStore
from bus.store import sql
from bus.testing.clock import FakeClock


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


def keys_in(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [key for (key,) in connection.execute("SELECT key FROM messenger_store ORDER BY key")]


def test_two_stores_on_one_file_see_the_same_values(database: Path) -> None:
    first, second = SqlStore(database), SqlStore(database)

    assert first.put_if_absent("key", "value")

    assert second.get("key") == "value"
    assert not second.put_if_absent("key", "another")
    first.close()
    second.close()


def test_values_whose_time_is_over_are_removed_from_the_table(database: Path) -> None:
    clock = FakeClock()
    store = SqlStore(database, clock=clock)
    for number in range(5):
        store.put_if_absent(f"short {number}", "value", ttl=10)
    store.put_if_absent("long", "value", ttl=1000)
    store.put_if_absent("kept", "value")

    clock.advance(61)
    store.put_if_absent("new", "value")

    assert keys_in(database) == ["kept", "long", "new"]
    store.close()


def test_a_table_that_was_dropped_is_made_again(database: Path) -> None:
    store = SqlStore(database)
    store.put_if_absent("key", "value")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE messenger_store")

    with pytest.raises(ConnectionLostError):
        store.put_if_absent("key", "value")

    assert store.put_if_absent("key", "value")
    store.close()


def test_without_auto_setup_a_missing_table_is_an_error_with_its_statement(database: Path) -> None:
    store = SqlStore(database, auto_setup=False)

    with pytest.raises(AccessDeniedError, match="CREATE TABLE"):
        store.put_if_absent("key", "value")

    assert store.get("key") is None
    store.close()


def test_a_writer_that_is_in_the_way_is_waited_for_and_then_reported(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "_PATIENCE", 0.5)
    store = SqlStore(database)
    store.put_if_absent("key", "value")
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConnectionLostError, match="is locked"):
            store.put_if_absent("another", "value")
        assert store.get("key") == "value"
    store.close()


def test_the_token_of_an_open_store_is_alive_for_others_and_that_of_a_closed_one_is_not(database: Path) -> None:
    first, second = SqlStore(database), SqlStore(database)
    assert first.living is not None
    assert second.living is not None
    token = first.living.owner()

    assert first.living.owner() == token
    assert first.living.is_alive(token)
    assert second.living.is_alive(token)
    assert not second.living.is_alive("0" * 32)

    first.close()

    assert not second.living.is_alive(token)
    assert first.living.owner() != token
    first.close()
    second.close()
