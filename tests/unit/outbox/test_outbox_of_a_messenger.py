from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bus import (
    ConfigurationError,
    HeldStamp,
    Messenger,
    MessengerConfig,
    SendRefused,
    SentStamp,
    TransportConfig,
    message,
)
from bus.transports.base import Outgoing
from bus.transports.memory import MemoryDriver
from bus.worker import WorkerOptions
from tests.faults.waiting import wait_until


@dataclass(frozen=True)
class Placed:
    id: str


@message(partition_key="id")
@dataclass(frozen=True)
class Keyed:
    id: str


class Down(MemoryDriver):
    """A driver whose broker is down until it is not."""

    is_down = True

    def send(self, batch: Any) -> Any:
        return [SendRefused("the broker is down") for _ in batch] if self.is_down else super().send(batch)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def messenger(database: Path) -> Iterator[Messenger]:
    config = MessengerConfig(
        transports={"async": TransportConfig(dsn="in-memory://", outbox="default")},
        routing={f"{__name__}.*": ("async",)},
        connections={"default": f"sqlite:///{database}"},
    )
    with Messenger(config, handlers=[lambda_handler]) as messenger:
        yield messenger


def lambda_handler(event: Placed) -> None: ...


def sent(messenger: Messenger) -> list[Outgoing]:
    driver = messenger.transport("async").driver
    assert isinstance(driver, MemoryDriver)
    return driver.sent


def rows(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT transport, message_id, due, created_at FROM messenger_outbox").fetchall()


def test_a_dispatch_goes_through_the_outbox_to_its_transport(messenger: Messenger, database: Path) -> None:
    envelope = messenger.dispatch(Placed("o-1"))

    assert envelope.last(SentStamp) == SentStamp("async")
    assert envelope.last(HeldStamp) is None
    assert len(sent(messenger)) == 1
    assert rows(database) == []


def test_many_go_through_it_together(messenger: Messenger, database: Path) -> None:
    messenger.bus.dispatch_many([Placed(f"o-{number}") for number in range(10)])

    assert len(sent(messenger)) == 10
    assert rows(database) == []


def test_a_broker_that_is_down_does_not_fail_the_dispatch(messenger: Messenger, database: Path) -> None:
    transport = messenger.transport("async")
    transport.driver = Down("async", transport.clock)

    messenger.dispatch(Placed("o-1"))

    assert [(name, due > created) for name, _, due, created in rows(database)] == [("async", True)]
    assert sent(messenger) == []


def test_a_message_with_a_key_is_sent_by_the_sweep_of_its_owner(messenger: Messenger, database: Path) -> None:
    for number in range(5):
        messenger.dispatch(Keyed(f"k-{number % 2}"))

    wait_until(lambda: len(sent(messenger)) == 5 and rows(database) == [], "the owner sends them", 20)
    keys = [outgoing.partition_key for outgoing in sent(messenger)]
    assert keys.count("k-0") == 3


def test_a_worker_sweeps_what_others_left(messenger: Messenger, database: Path) -> None:
    transport = messenger.transport("async")
    down = Down("async", transport.clock)
    transport.driver = down
    messenger.dispatch(Placed("o-1"))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE messenger_outbox SET due = 0")
    down.is_down = False
    messenger._outboxes.close()

    messenger.worker(("async",), WorkerOptions(stop_when_empty=True)).run()
    wait_until(lambda: rows(database) == [], "the worker's sweep has sent it", 20)

    assert len(down.sent) == 1


def test_an_outbox_on_a_connection_that_does_not_exist_is_a_problem_of_the_configuration() -> None:
    config = MessengerConfig(transports={"async": TransportConfig(dsn="in-memory://", outbox="ledger")})

    with pytest.raises(ConfigurationError, match='Transport "async": there is no connection "ledger"'):
        Messenger(config)
