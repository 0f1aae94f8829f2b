"""Handlers' transactions, their records and the outbox in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bus import (
    BusConfig,
    Envelope,
    HandlerFailedError,
    MessageIdStamp,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    PartitionKeyStamp,
    TransportConfig,
)
from tests.faults.waiting import wait_until


@dataclass(frozen=True)
class Placed:
    id: str


@dataclass(frozen=True)
class Billed:
    id: str


@dataclass(frozen=True)
class Shipped:
    id: str


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(primary_key=True)


MIDDLEWARE = ("idempotency", "transaction")


class Shop:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.made: list[Messenger] = []
        self.execute("CREATE TABLE orders (id text PRIMARY KEY)")

    def execute(self, statement: str) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else [row[0] for row in cursor.fetchall()]

    def messenger(self, *handlers: Callable[..., Any], store: str = "sql://default", **options: Any) -> Messenger:
        here = TransportConfig(dsn="sql://default?queue_name=here", options=options)
        config = MessengerConfig(
            buses={"bus": BusConfig(middleware=tuple(MiddlewareConfig(name=each) for each in MIDDLEWARE))},
            transports={"here": here, "memory": TransportConfig(dsn="in-memory://")},
            connections={"default": self.dsn},
            routing={f"{__name__}.Billed": ("here",), f"{__name__}.Shipped": ("memory",)},
            store=store,
        )
        messenger = Messenger(config, handlers=handlers)
        self.made.append(messenger)
        return messenger

    @property
    def orders(self) -> list[str]:
        return self.execute("SELECT id FROM orders ORDER BY id")


@pytest.fixture
def shop(postgres_dsn: str) -> Iterator[Shop]:
    shop = Shop(postgres_dsn)
    yield shop
    for messenger in shop.made:
        messenger.close()


def identified(message: object, number: str = "m-1") -> Envelope:
    return Envelope(message, (MessageIdStamp(number),))


def waiting(messenger: Messenger, transport: str) -> list[object]:
    return [envelope.message for envelope in messenger.transport(transport).peek(100) or ()]


def test_work_record_and_messages_are_committed_together(shop: Shop) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.bus.dispatch(Billed(event.id))
        messenger.bus.dispatch(Shipped(event.id))

    messenger = shop.messenger(place)

    messenger.bus.dispatch(identified(Placed("o-1")))

    assert shop.orders == ["o-1"]
    assert waiting(messenger, "here") == [Billed("o-1")]
    assert waiting(messenger, "memory") == [Shipped("o-1")]
    assert shop.execute("SELECT count(*) FROM messenger_outbox") == [0]


def test_a_failed_handler_leaves_nothing(shop: Shop) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        session.flush()
        messenger.bus.dispatch(Billed(event.id))
        messenger.bus.dispatch(Shipped(event.id))
        raise ValueError("not now")

    messenger = shop.messenger(place)

    with pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified(Placed("o-1")))

    assert shop.orders == []
    assert waiting(messenger, "here") == waiting(messenger, "memory") == []


def test_a_handler_that_is_done_does_not_run_again(shop: Shop) -> None:
    calls = []

    def place(event: Placed, session: Session) -> None:
        calls.append(event.id)
        session.add(Order(id=event.id))

    messenger = shop.messenger(place)
    for _ in range(2):
        messenger.bus.dispatch(identified(Placed("o-1")))

    assert calls == ["o-1"]
    assert shop.orders == ["o-1"]


def test_a_statement_that_failed_cannot_be_passed_over(shop: Shop) -> None:
    def place(event: Placed, connection: Connection) -> None:
        connection.execute(text("INSERT INTO orders VALUES ('o-1')"))
        try:
            connection.execute(text("INSERT INTO orders VALUES ('o-1')"))
        except SQLAlchemyError:
            pass

    messenger = shop.messenger(place)

    with pytest.raises(HandlerFailedError, match=r"aborted|savepoint"):
        messenger.bus.dispatch(identified(Placed("o-1")))

    assert shop.orders == []


def test_a_statement_that_failed_in_a_savepoint_can(shop: Shop) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        session.flush()
        try:
            with session.begin_nested():
                session.execute(text("INSERT INTO orders VALUES ('o-1')"))
        except SQLAlchemyError:
            pass

    shop.messenger(place).bus.dispatch(identified(Placed("o-1")))

    assert shop.orders == ["o-1"]


def test_connections_that_were_cut_while_idle_are_replaced(shop: Shop) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))

    messenger = shop.messenger(place)
    for number in range(3):
        messenger.bus.dispatch(identified(Placed(f"o-{number}"), f"m-{number}"))
        shop.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    assert shop.orders == ["o-0", "o-1", "o-2"]


def test_a_worker_handles_once_what_was_sent_in_a_handlers_transaction(shop: Shop) -> None:
    handled = []

    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.bus.dispatch(Billed(event.id), [PartitionKeyStamp(event.id)])

    def bill(event: Billed, session: Session) -> None:
        handled.append(event.id)

    messenger = shop.messenger(place, bill, partitions=2)
    for number in range(5):
        messenger.bus.dispatch(identified(Placed(f"o-{number}"), f"m-{number}"))

    worker = messenger.worker(["here"])
    thread = Thread(target=worker.run)
    thread.start()
    wait_until(lambda: len(handled) == 5, "all are handled", 30)
    worker.stop()
    thread.join(30)

    assert sorted(handled) == [f"o-{number}" for number in range(5)]


def test_what_a_dead_writer_left_in_the_outbox_is_sent_by_others(shop: Shop) -> None:
    def place(event: Placed, session: Session) -> None:
        messenger.bus.dispatch(Shipped(event.id))

    messenger = shop.messenger(place)
    messenger.bus.dispatch(identified(Placed("o-1")))
    shop.execute(
        "INSERT INTO messenger_outbox "
        "(transport, message_id, body, headers, delay_ms, attempt, priority, created_at, due) "
        f"SELECT 'memory', 'm-9', '{{\"id\": \"o-9\"}}', '{{\"type\": \"{__name__}.Shipped\"}}', 0, 0, 0, 0, 0"
    )

    wait_until(lambda: Shipped("o-9") in waiting(messenger, "memory"), "the relay sends it", 30)
    wait_until(lambda: shop.execute("SELECT count(*) FROM messenger_outbox") == [0], "it is removed", 30)


def test_the_key_of_a_partition_has_one_reader_of_several_workers(shop: Shop) -> None:
    order: list[tuple[str, int]] = []

    def bill(event: Billed) -> None:
        key, number = event.id.split("-")
        order.append((key, int(number)))

    messengers = [shop.messenger(bill, partitions=4) for _ in range(2)]
    for number in range(10):
        for key in "abc":
            messengers[0].bus.dispatch(Billed(f"{key}-{number}"), [PartitionKeyStamp(key)])

    workers = [messenger.worker(["here"]) for messenger in messengers]
    threads = [Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(order) == 30, "all are handled", 30)
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join(30)

    for key in "abc":
        assert [number for each, number in order if each == key] == list(range(10))
