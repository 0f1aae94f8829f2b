"""Messages that become part of a transaction of the caller's, outside of handlers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from bus import Messenger, MessengerConfig, SendRefused, TransactionStamp, TransportConfig
from tests.faults.waiting import wait_until


@dataclass(frozen=True)
class OrderPlaced:
    id: str


@dataclass(frozen=True)
class Shipped:
    id: str


@dataclass(frozen=True)
class Lost:
    id: str


@dataclass
class Shop:
    messenger: Messenger
    engine: Engine

    def waiting(self, transport: str) -> list[object]:
        return [envelope.message for envelope in self.messenger.transport(transport).peek(100) or ()]

    @property
    def orders(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.execute(text("SELECT id FROM orders")).scalars())


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    if request.param == "sqlite":
        dsn = f"sqlite:///{tmp_path}/shop.db"
        url = dsn
    elif request.param == "postgresql":
        dsn = request.getfixturevalue("postgres_dsn")
        url = dsn.replace("postgresql://", "postgresql+psycopg://")
    else:
        dsn = request.getfixturevalue("mariadb_dsn")
        url = dsn.replace("mariadb://", "mysql+pymysql://")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id VARCHAR(20) PRIMARY KEY)"))
    config = MessengerConfig(
        transports={
            "here": TransportConfig(dsn="sql://default?queue_name=here"),
            "away": TransportConfig(dsn="in-memory://", outbox="default"),
            "elsewhere": TransportConfig(dsn="in-memory://"),
        },
        connections={"default": dsn},
        routing={
            f"{__name__}.OrderPlaced": ("here",),
            f"{__name__}.Shipped": ("away",),
            f"{__name__}.Lost": ("elsewhere",),
        },
    )
    messenger = Messenger(config)
    messenger.set_up()
    yield Shop(messenger, engine)
    messenger.close()
    engine.dispose()


def place(shop: Shop, session: Session, number: str) -> None:
    session.execute(text("INSERT INTO orders VALUES (:id)"), {"id": number})
    for message in (OrderPlaced(number), Shipped(number)):
        shop.messenger.bus.dispatch(message, [TransactionStamp(session)])


def test_a_commit_leaves_the_work_and_each_message_once(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        place(shop, session, "o-1")

    assert shop.orders == ["o-1"]
    assert shop.waiting("here") == [OrderPlaced("o-1")]
    wait_until(lambda: shop.waiting("away") == [Shipped("o-1")], "the outbox has sent it", 30)


def test_a_rollback_leaves_nothing_not_even_after_the_next_commit(shop: Shop) -> None:
    with Session(shop.engine) as session:
        place(shop, session, "o-1")
        session.rollback()
        place(shop, session, "o-2")
        session.commit()

    assert shop.orders == ["o-2"]
    assert shop.waiting("here") == [OrderPlaced("o-2")]
    wait_until(lambda: shop.waiting("away") == [Shipped("o-2")], "the outbox has sent it", 30)


def test_a_connection_will_do(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        shop.messenger.bus.dispatch(OrderPlaced("o-1"), [TransactionStamp(connection)])

    assert shop.waiting("here") == [OrderPlaced("o-1")]


def test_a_transport_in_no_such_database_refuses(shop: Shop) -> None:
    with (
        Session(shop.engine) as session,
        pytest.raises(SendRefused, match="is not in the database of this transaction"),
    ):
        shop.messenger.bus.dispatch(Lost("o-1"), [TransactionStamp(session)])
