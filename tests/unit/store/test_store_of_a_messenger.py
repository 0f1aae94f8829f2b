from __future__ import annotations

from pathlib import Path

import pytest

from bus import ConfigurationError, MemoryStore, Messenger, MessengerConfig, SqlStore


def test_the_store_of_a_messenger_is_made_once_and_when_it_is_asked_for(tmp_path: Path) -> None:
    database = tmp_path / "bus.db"
    with Messenger(MessengerConfig(connections={"default": f"sqlite:///{database}"})) as messenger:
        assert isinstance(messenger.store, SqlStore)
        assert messenger.store is messenger.store
        assert not database.exists()

        messenger.store.put_if_absent("key", "value")

        assert database.exists()


def test_a_store_in_memory() -> None:
    with Messenger(MessengerConfig(store="memory://")) as messenger:
        assert isinstance(messenger.store, MemoryStore)


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        (
            "kafka://localhost",
            'store: no store for "kafka://"; there are: "doctrine", "mariadb", "mysql", "postgres"',
        ),
        ("redis://localhost?prefx=a", 'unknown option "prefx"'),
        ("redis://localhost?dbindex=-1", 'option "dbindex" must be 0 to'),
        ("memry://", 'did you mean "memory"?'),
        ("sql://default?autosetup=1", 'unknown options of a store: "autosetup"; options are: "auto_setup"'),
        ("sql://default?auto_setup=maybe", 'the option "auto_setup" of a store must be true or false'),
        ("default", "a DSN begins with a scheme"),
    ],
)
def test_a_dsn_that_is_no_store_is_a_problem_of_the_configuration(dsn: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Messenger(MessengerConfig(store=dsn))

    assert problem in str(caught.value)


def test_a_store_on_a_connection_that_does_not_exist_says_so() -> None:
    messenger = Messenger(MessengerConfig(store="sql://ledger"))

    with pytest.raises(ConfigurationError, match='The store: there is no connection "ledger"'):
        _ = messenger.store
