"""``Messenger.set_up`` and ``check``: transports, and what is beside them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bus import AccessDeniedError, BusConfig, Messenger, MessengerConfig, MiddlewareConfig, SqlStore, TransportConfig


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


def messenger_on(database: Path, store: str = "sql://default", *middleware: str, **options: object) -> Messenger:
    bus = BusConfig(middleware=tuple(MiddlewareConfig(name=name) for name in middleware))
    return Messenger(
        MessengerConfig(
            buses={"command.bus": bus},
            connections={"default": f"sqlite:///{database}"},
            store=store,
            transports={"async": TransportConfig(dsn="sql://default", options=options)},
        )
    )


def tables_of(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {name for name in names if name.startswith("messenger_")}


def test_the_tables_of_the_shared_store_and_of_outboxes_are_created_too(database: Path) -> None:
    with messenger_on(database, "sql://default", "transaction") as messenger:
        done = messenger.set_up()

    assert done == {"async": True, "store sql://default": True, f"outbox {database}": True}
    assert tables_of(database) == {"messenger_messages", "messenger_store", "messenger_outbox"}


def test_a_second_set_up_changes_nothing(database: Path) -> None:
    with messenger_on(database, "sql://default", "transaction") as messenger:
        messenger.set_up()
        messenger.store.put_if_absent("key", "value")
        messenger.set_up()

        assert messenger.store.get("key") == "value"


def test_what_is_missing_is_named_and_not_created(database: Path) -> None:
    with messenger_on(database, "sql://default", "transaction") as messenger:
        before = messenger.check()
        assert not database.exists()
        messenger.set_up()
        after = messenger.check()

    assert before["store sql://default"] == (f'there is no table "messenger_store" in SQLite database "{database}"',)
    assert before[f"outbox {database}"] == (f'there is no table "messenger_outbox" in SQLite database "{database}"',)
    assert [list(problems or ()) for problems in after.values()] == [[], [], []]


def test_a_table_that_was_dropped_is_missing_again(database: Path) -> None:
    with messenger_on(database) as messenger:
        messenger.set_up()
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("DROP TABLE messenger_store")

        assert messenger.check()["store sql://default"] != ()


def test_with_names_only_those_transports_are_set_up(database: Path) -> None:
    with messenger_on(database, "sql://default", "transaction") as messenger:
        assert messenger.set_up(["async"]) == {"async": True}

    assert tables_of(database) == {"messenger_messages"}


def test_a_store_in_memory_has_nothing_to_set_up(database: Path) -> None:
    with messenger_on(database, "memory://") as messenger:
        assert messenger.set_up() == {"async": True}


def test_the_store_of_partitions_belongs_to_its_transport(database: Path) -> None:
    with messenger_on(database, "memory://", partitions=4) as messenger:
        assert len(messenger.check()["async"] or ()) == 2
        messenger.set_up()

        assert list(messenger.check()["async"] or ()) == []
    assert tables_of(database) == {"messenger_messages", "messenger_store"}


def test_a_store_that_may_not_create_its_table_works_after_a_set_up(database: Path) -> None:
    store = SqlStore(database, auto_setup=False)
    with pytest.raises(AccessDeniedError, match='create it with "bus setup-transports"'):
        store.put_if_absent("key", "value")

    store.set_up()

    assert store.put_if_absent("key", "value")
    store.close()
