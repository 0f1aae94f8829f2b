from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bus import (
    BusConfig,
    ConfigurationError,
    Envelope,
    HandlerFailedError,
    InProgressElsewhereError,
    MessageIdStamp,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    TransportConfig,
    UnrecoverableError,
    handler,
)
from bus.store.claims import Claims, ClaimState
from bus.testing.failpoints import armed
from bus.worker import WorkerOptions


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


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)")
    return path


@pytest.fixture
def other_database(tmp_path: Path) -> Path:
    return tmp_path / "other.db"


Make = Callable[..., Messenger]


@pytest.fixture
def make(database: Path, other_database: Path) -> Iterator[Make]:
    made: list[Messenger] = []

    def make(*handlers: Any, middleware: tuple[str, ...] = ("idempotency", "transaction"), **more: Any) -> Messenger:
        config = MessengerConfig(
            buses={"bus": BusConfig(middleware=tuple(MiddlewareConfig(name=name) for name in middleware))},
            transports={
                "here": TransportConfig(dsn="sql://default?queue_name=here"),
                "there": TransportConfig(dsn="sql://other?queue_name=there"),
                "memory": TransportConfig(dsn="in-memory://"),
            },
            connections={"default": f"sqlite:///{database}", "other": f"sqlite:///{other_database}"},
            **{"routing": {f"{__name__}.Billed": ("here",), f"{__name__}.Shipped": ("there",)}, **more},
        )
        messenger = Messenger(config, handlers=handlers)
        made.append(messenger)
        return messenger

    yield make
    for messenger in made:
        messenger.close()


def rows(database: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] if len(row) == 1 else row for row in connection.execute(statement).fetchall()]


def orders(database: Path) -> list[str]:
    return rows(database, "SELECT id FROM orders ORDER BY id")


def tables(database: Path) -> set[str]:
    return set(rows(database, "SELECT name FROM sqlite_master WHERE type = 'table'"))


def identified(message: object = Placed("o-1"), number: str = "m-1") -> Envelope:
    return Envelope(message, (MessageIdStamp(number),))


def waiting(messenger: Messenger, transport: str) -> list[object]:
    return [envelope.message for envelope in messenger.transport(transport).peek(100) or ()]


def fails(error: BaseException | None = None) -> None:
    raise error or ValueError("not now")


# --- what a handler is given ---


def test_a_session_is_committed_when_the_handler_returns(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        assert orders(database) == []

    make(place).dispatch(Placed("o-1"))

    assert orders(database) == ["o-1"]


def test_a_connection_is_committed_when_the_handler_returns(make: Make, database: Path) -> None:
    def place(event: Placed, connection: Connection) -> None:
        connection.execute(text("INSERT INTO orders VALUES (:id)"), {"id": event.id})

    make(place).dispatch(Placed("o-1"))

    assert orders(database) == ["o-1"]


def test_session_and_connection_are_in_one_transaction(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session, connection: Connection) -> None:
        session.add(Order(id="by session"))
        session.flush()
        connection.execute(text("INSERT INTO orders SELECT 'by connection, after ' || id FROM orders"))

    make(place).dispatch(Placed("o-1"))

    assert orders(database) == ["by connection, after by session", "by session"]


def test_the_work_of_a_handler_that_fails_is_rolled_back(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session, connection: Connection) -> None:
        session.add(Order(id="by session"))
        connection.execute(text("INSERT INTO orders VALUES ('by connection')"))
        session.flush()
        fails()

    with pytest.raises(HandlerFailedError):
        make(place).dispatch(Placed("o-1"))

    assert orders(database) == []


def test_what_the_session_cannot_write_at_the_end_fails_the_handler(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))

    messenger = make(place, middleware=("transaction",))
    messenger.dispatch(Placed("o-1"))

    with pytest.raises(HandlerFailedError, match="UNIQUE constraint"):
        messenger.dispatch(Placed("o-1"))

    assert orders(database) == ["o-1"]


def test_a_commit_of_the_session_ends_a_savepoint_only(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        session.commit()
        assert orders(database) == []
        session.add(Order(id="undone"))
        session.rollback()
        session.add(Order(id="o-2"))
        fails() if event.id == "fails" else None

    messenger = make(place, middleware=("transaction",))
    with pytest.raises(HandlerFailedError):
        messenger.dispatch(Placed("fails"))
    assert orders(database) == []
    messenger.dispatch(Placed("o-1"))

    assert orders(database) == ["o-1", "o-2"]


@pytest.mark.parametrize("swallows", [False, True])
def test_a_handler_that_commits_the_connection_fails_and_is_rolled_back(
    make: Make, database: Path, swallows: bool
) -> None:
    def place(event: Placed, connection: Connection) -> None:
        connection.execute(text("INSERT INTO orders VALUES ('o-1')"))
        try:
            connection.commit()
        except Exception:
            if not swallows:
                raise

    with pytest.raises(HandlerFailedError, match="itself"):
        make(place).dispatch(Placed("o-1"))

    assert orders(database) == []


def test_a_handler_that_rolls_the_connection_back_and_returns_fails(make: Make, database: Path) -> None:
    def place(event: Placed, connection: Connection) -> None:
        connection.execute(text("INSERT INTO orders VALUES ('o-1')"))
        connection.rollback()
        connection.execute(text("INSERT INTO orders VALUES ('o-2')"))

    with pytest.raises(HandlerFailedError, match="ended by the handler itself"):
        make(place).dispatch(Placed("o-1"))

    assert orders(database) == []


@pytest.mark.parametrize("closes", [Connection, Session])
@pytest.mark.parametrize("middleware", [("transaction",), ("idempotency", "transaction")], ids=str)
def test_a_handler_that_closes_what_it_was_given_fails_and_may_run_again(
    make: Make, database: Path, closes: type, middleware: tuple[str, ...]
) -> None:
    given: list[Any] = []

    def place(event: Placed, session: Session, connection: Connection) -> None:
        session.add(Order(id=event.id))
        if not given:
            given.append({Connection: connection, Session: session}[closes])
            given[0].close()

    messenger = make(place, middleware=middleware)
    with pytest.raises(HandlerFailedError, match=r"close"):
        messenger.bus.dispatch(identified())
    assert orders(database) == []

    messenger.bus.dispatch(identified())
    assert orders(database) == ["o-1"]


def test_a_handler_that_uses_no_database_writes_nothing(make: Make, database: Path) -> None:
    def place(event: Placed) -> None: ...

    make(place, middleware=("transaction",)).dispatch(Placed("o-1"))

    assert tables(database) == {"orders"}


def test_another_connection_may_write_until_the_handler_uses_the_database(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        with closing(sqlite3.connect(database, timeout=0)) as connection, connection:
            connection.execute("INSERT INTO orders VALUES ('elsewhere')")
        session.add(Order(id=event.id))

    make(place, middleware=("transaction",)).dispatch(Placed("o-1"))

    assert orders(database) == ["elsewhere", "o-1"]


def test_each_handler_has_a_transaction_of_its_own(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))

    def fail(event: Placed, session: Session) -> None:
        session.add(Order(id="undone"))
        session.flush()
        fails()

    with pytest.raises(HandlerFailedError):
        make(place, fail).dispatch(Placed("o-1"))

    assert orders(database) == ["o-1"]


# --- what a messenger refuses ---


def test_an_async_handler_in_a_transaction_is_refused_when_the_messenger_is_built(make: Make) -> None:
    async def place(event: Placed) -> None: ...

    with pytest.raises(ConfigurationError, match=r'cannot stand around "async def" handlers, and this bus has .*place'):
        make(place)


def test_a_handler_whose_session_nothing_gives_is_refused_when_the_messenger_is_built(make: Make) -> None:
    def place(event: Placed, session: Session) -> None: ...

    with pytest.raises(ConfigurationError, match=r'parameter "session" of handler .*place"; the middleware'):
        make(place, middleware=())


def test_with_a_container_a_session_may_come_from_there(make: Make) -> None:
    given: list[object] = []

    class Container:
        def get(self, wanted: type, /) -> object:
            return f"a {wanted.__name__} of the container"

    def place(event: Placed, session: Session) -> None:
        given.append(session)

    Messenger(MessengerConfig(), handlers=[place], container=Container()).dispatch(Placed("o-1"))

    assert given == ["a Session of the container"]


def test_on_a_bus_without_a_transaction_a_handler_of_two_buses_is_told_so(database: Path) -> None:
    def place(event: Placed, session: Session) -> None: ...

    config = MessengerConfig(
        buses={"with": BusConfig(middleware=(MiddlewareConfig(name="transaction"),)), "without": BusConfig()},
        default_bus="with",
        connections={"default": f"sqlite:///{database}"},
    )
    with Messenger(config, handlers=[place]) as messenger, pytest.raises(HandlerFailedError) as caught:
        messenger.buses["without"].dispatch(Placed("o-1"))

    (error,) = caught.value.errors.values()
    assert isinstance(error, UnrecoverableError)
    assert 'has no middleware "transaction"' in str(error)


def test_a_connection_that_does_not_exist_is_a_problem_of_the_configuration() -> None:
    config = MessengerConfig(
        buses={"bus": BusConfig(middleware=(MiddlewareConfig(name="transaction", positional=("ledger",)),))}
    )

    with pytest.raises(ConfigurationError, match='The middleware "transaction": there is no connection "ledger"'):
        Messenger(config)


# --- what is committed together ---


def test_a_send_to_a_transport_of_the_same_database_is_part_of_the_transaction(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.dispatch(Billed(event.id))

    messenger = make(place)
    with armed("before_commit=raise"), pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified())
    assert (orders(database), waiting(messenger, "here")) == ([], [])

    with armed("after_commit=raise"), pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified())

    assert (orders(database), waiting(messenger, "here")) == (["o-1"], [Billed("o-1")])


def test_a_send_to_another_database_waits_in_the_outbox_until_it_is_there(
    make: Make, database: Path, other_database: Path
) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.dispatch(Shipped(event.id))

    messenger = make(place)
    with armed("after_commit=raise"), pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified())

    assert rows(database, "SELECT transport FROM messenger_outbox") == ["there"]
    assert waiting(messenger, "there") == []

    messenger.bus.dispatch(identified(Placed("o-2"), "m-2"))

    assert rows(database, "SELECT count(*) FROM messenger_outbox") == [1]
    assert waiting(messenger, "there") == [Shipped("o-2")]


def test_what_a_failed_handler_dispatched_is_sent_nowhere(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        messenger.dispatch(Billed(event.id))
        messenger.dispatch(Shipped(event.id))
        fails()

    messenger = make(place)
    with pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified())

    assert waiting(messenger, "here") == waiting(messenger, "there") == []
    assert "messenger_outbox" not in tables(database)


def test_that_a_handler_is_done_is_committed_with_its_work(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))

    messenger = make(place)
    with armed("before_commit=raise"), pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified())
    assert rows(database, "SELECT value FROM messenger_store") == []

    with armed("after_commit=raise"), pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified())
    assert rows(database, "SELECT value FROM messenger_store") == ["done"]

    messenger.bus.dispatch(identified())
    assert orders(database) == ["o-1"]


@pytest.mark.parametrize("store", ["memory://", "sql://other"])
def test_with_a_store_elsewhere_the_note_follows_the_commit(make: Make, database: Path, store: str) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))

    messenger = make(place, store=store)
    with armed("before_commit=raise"), pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified())
    assert orders(database) == []

    messenger.bus.dispatch(identified())
    messenger.bus.dispatch(identified())

    assert orders(database) == ["o-1"]


def test_a_claim_lost_while_the_handler_runs_rolls_it_back(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE messenger_store SET value = 'claimed by another'")
        session.add(Order(id=event.id))

    key = f"idempotency:m-1:{__name__}.{place.__qualname__}"
    messenger = make(place)

    with pytest.raises(HandlerFailedError) as caught:
        Messenger.dispatch(messenger, Envelope(Placed("o-1"), (MessageIdStamp("m-1"),)))

    (error,) = caught.value.errors.values()
    assert isinstance(error, InProgressElsewhereError)
    assert orders(database) == []
    assert messenger.store.get(key) == "claimed by another"


# --- nested calls ---


def test_a_nested_call_joins_the_transaction_of_the_call_around_it(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.dispatch(Inner("i-1"))
        assert orders(database) == []

    def inner(event: Inner, session: Session) -> None:
        assert [order.id for order in session.query(Order)] == ["o-1"]
        session.add(Order(id=event.id))
        messenger.dispatch(Billed(event.id))

    messenger = make(place, inner)
    with armed("before_commit=raise@2"):
        messenger.bus.dispatch(identified())

    assert orders(database) == ["i-1", "o-1"]
    assert waiting(messenger, "here") == [Billed("i-1")]


@dataclass(frozen=True)
class Inner:
    id: str


def test_a_nested_call_that_fails_undoes_its_own_work_only(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        with pytest.raises(HandlerFailedError):
            messenger.dispatch(Inner("i-1"), [MessageIdStamp("m-inner")])
        messenger.dispatch(Billed(event.id))

    def inner(event: Inner, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.dispatch(Billed(event.id))
        session.flush()
        fails()

    messenger = make(place, inner)
    messenger.bus.dispatch(identified())

    assert orders(database) == ["o-1"]
    assert waiting(messenger, "here") == [Billed("o-1")]
    assert rows(database, "SELECT count(*) FROM messenger_store WHERE key LIKE '%m-inner%'") == [0]


def test_a_nested_call_is_undone_with_the_call_around_it(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        messenger.dispatch(Inner("i-1"), [MessageIdStamp("m-inner")])
        fails()

    def inner(event: Inner, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.dispatch(Billed(event.id))

    messenger = make(place, inner)
    with pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(identified())

    assert orders(database) == []
    assert waiting(messenger, "here") == []
    assert rows(database, "SELECT count(*) FROM messenger_store") == [0]
    claims = Claims(messenger.store)
    key = f"idempotency:m-inner:{__name__}.{inner.__qualname__}"
    assert claims.claim(key, claims.token()) is ClaimState.NEW


def test_a_nested_call_on_another_database_is_a_unit_of_its_own(
    database: Path, other_database: Path, make: Make
) -> None:
    with closing(sqlite3.connect(other_database)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)")

    @handler(bus="default")
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.buses["other"].dispatch(Inner("i-1"))
        assert orders(other_database) == ["i-1"]
        fails()

    @handler(bus="other")
    def inner(event: Inner, session: Session) -> None:
        session.add(Order(id=event.id))

    config = MessengerConfig(
        buses={
            "default": BusConfig(
                middleware=(MiddlewareConfig(name="idempotency"), MiddlewareConfig(name="transaction"))
            ),
            "other": BusConfig(
                middleware=(
                    MiddlewareConfig(name="idempotency"),
                    MiddlewareConfig(name="transaction", arguments={"connection": "other"}),
                )
            ),
        },
        default_bus="default",
        connections={"default": f"sqlite:///{database}", "other": f"sqlite:///{other_database}"},
    )
    with Messenger(config, handlers=[place, inner]) as messenger:
        with pytest.raises(HandlerFailedError, match="not now"):
            messenger.dispatch(Placed("o-1"))

        assert (orders(database), orders(other_database)) == ([], ["i-1"])


# --- in a worker ---


def test_a_worker_handles_each_message_of_its_own_database_once(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.dispatch(Shipped(event.id))

    messenger = make(place, routing={f"{__name__}.Placed": ("here",), f"{__name__}.Shipped": ("there",)})
    for number in range(20):
        for _ in range(2):
            messenger.dispatch(Placed(f"o-{number:02}"), [MessageIdStamp(f"m-{number}")])

    messenger.worker(("here",), WorkerOptions(stop_when_empty=True, concurrency=4)).run()

    assert orders(database) == [f"o-{number:02}" for number in range(20)]
    assert sorted(str(each) for each in waiting(messenger, "there")) == sorted(
        str(Shipped(f"o-{number:02}")) for number in range(20)
    )
    assert rows(database, "SELECT count(*) FROM messenger_outbox") == [0]


def test_nothing_is_logged_as_an_error_when_all_goes_well(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))
        messenger.dispatch(Shipped(event.id))

    caplog.set_level(logging.WARNING)
    messenger = make(place)
    messenger.bus.dispatch(identified())
    messenger.close()

    assert caplog.records == []


def test_a_forked_child_uses_connections_of_its_own(make: Make, database: Path) -> None:
    def place(event: Placed, session: Session) -> None:
        session.add(Order(id=event.id))

    messenger = make(place)
    messenger.dispatch(Placed("parent"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            messenger.dispatch(Placed("child"))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    messenger.dispatch(Placed("parent again"))

    assert status == 0
    assert orders(database) == ["child", "parent", "parent again"]
