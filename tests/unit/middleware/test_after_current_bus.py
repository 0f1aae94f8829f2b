from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from bus import (
    BusConfig,
    DelayedMessageHandlingError,
    DispatchAfterCurrentBusStamp,
    HandledStamp,
    HandlerFailedError,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    RetryPolicy,
    TransportConfig,
    UnrecoverableError,
)
from bus.transports.base import Counts
from bus.transports.memory import MemoryDriver
from bus.worker import WorkerOptions

AFTER = [DispatchAfterCurrentBusStamp()]


@dataclass(frozen=True)
class Register:
    name: str


@dataclass(frozen=True)
class Registered:
    name: str


@dataclass(frozen=True)
class Welcomed:
    name: str


class Shop:
    """Handlers that note what happens, and fail where they are told to."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.failing: dict[str, BaseException] = {}
        self.messenger: Messenger

    def note(self, what: str) -> None:
        self.trace.append(what)
        error = self.failing.get(what)
        if error is not None:
            raise error

    def register(self, event: Register) -> None:
        self.messenger.dispatch(Registered(event.name), AFTER)
        self.note("registered")

    def count(self, event: Register) -> None:
        self.note("counted")

    def welcome(self, event: Registered) -> None:
        self.messenger.dispatch(Welcomed(event.name), AFTER)
        self.note("welcome")

    def tell(self, event: Welcomed) -> None:
        self.note("told")


@pytest.fixture
def shop() -> Shop:
    return Shop()


def open_shop(shop: Shop, *middleware: str, routing: dict[str, tuple[str, ...]] | None = None) -> Messenger:
    retry = RetryPolicy(max_retries=2, delay=0)
    shop.messenger = Messenger(
        MessengerConfig(
            buses={"bus": BusConfig(middleware=tuple(MiddlewareConfig(name=name) for name in middleware))},
            transports={
                "async": TransportConfig(dsn="in-memory://", retry=retry),
                "failed": TransportConfig(dsn="in-memory://"),
                "sync": TransportConfig(dsn="sync://"),
            },
            failure_transport="failed",
            routing=routing or {},
            store="memory://",
        ),
        handlers=[shop.register, shop.count, shop.welcome, shop.tell],
    )
    return shop.messenger


def driver_of(messenger: Messenger, name: str) -> MemoryDriver:
    driver = messenger.transport(name).driver
    assert isinstance(driver, MemoryDriver)
    return driver


def test_it_is_handled_when_all_handlers_of_the_current_message_are_through(shop: Shop) -> None:
    open_shop(shop).dispatch(Register("Ann"))

    assert shop.trace == ["registered", "counted", "welcome", "told"]


def test_outside_a_handler_it_is_handled_at_once(shop: Shop) -> None:
    envelope = open_shop(shop).dispatch(Welcomed("Ann"), AFTER)

    assert shop.trace == ["told"]
    assert envelope.last(DispatchAfterCurrentBusStamp) is None


def test_a_handler_whose_message_waits_is_done_when_that_is_done(shop: Shop) -> None:
    envelope = open_shop(shop).dispatch(Register("Ann"))

    assert [stamp.handler_name.rpartition(".")[2] for stamp in envelope.all(HandledStamp)] == ["count", "register"]


def test_sync_transports_wait_too_and_those_that_send_do_not(shop: Shop) -> None:
    messenger = open_shop(shop, routing={f"{__name__}.Registered": ("sync",), f"{__name__}.Welcomed": ("async",)})

    messenger.dispatch(Register("Ann"))

    assert shop.trace[:2] == ["registered", "counted"]
    assert [each.message_id != "" for each in driver_of(messenger, "async").sent] == [True]


def test_a_handler_that_fails_takes_what_it_put_off_along(shop: Shop) -> None:
    shop.failing["registered"] = ValueError("no")

    with pytest.raises(HandlerFailedError):
        open_shop(shop).dispatch(Register("Ann"))

    assert shop.trace == ["registered", "counted"]


def test_what_a_successful_handler_put_off_is_done_although_another_handler_fails(shop: Shop) -> None:
    """Symfony drops it, and a retry skips the handler that would dispatch it again."""
    shop.failing["counted"] = ValueError("no")

    with pytest.raises(HandlerFailedError) as caught:
        open_shop(shop).dispatch(Register("Ann"))

    assert shop.trace == ["registered", "counted", "welcome", "told"]
    assert [stamp.handler_name.rpartition(".")[2] for stamp in caught.value.envelope.all(HandledStamp)] == ["register"]


def test_when_it_fails_the_handler_that_dispatched_it_has_failed(shop: Shop) -> None:
    shop.failing["welcome"] = ValueError("no")

    with pytest.raises(HandlerFailedError) as caught:
        open_shop(shop).dispatch(Register("Ann"))

    ((name, error),) = caught.value.errors.items()
    assert name.endswith("Shop.register")
    assert isinstance(error, DelayedMessageHandlingError)
    assert "no" in str(error)
    assert shop.trace == ["registered", "counted", "welcome"]


@pytest.mark.parametrize("middleware", [(), ("idempotency",)])
def test_nothing_is_lost_when_the_outer_message_is_retried(shop: Shop, middleware: tuple[str, ...]) -> None:
    attempts: list[int] = []

    def fail_once(message: Welcomed) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("no")

    shop.tell = fail_once  # type: ignore[method-assign]
    messenger = open_shop(shop, *middleware, routing={f"{__name__}.Register": ("async",)})
    messenger.dispatch(Register("Ann"))

    messenger.worker(("async",), WorkerOptions(stop_when_empty=True)).run()

    assert shop.trace == ["registered", "counted", "welcome", "registered", "welcome"]
    assert len(attempts) == 2
    assert driver_of(messenger, "failed").sent == []


def test_it_steers_the_retry_by_its_own_error(shop: Shop) -> None:
    shop.failing["told"] = UnrecoverableError("never")
    messenger = open_shop(shop, routing={f"{__name__}.Register": ("async",)})
    messenger.dispatch(Register("Ann"))

    messenger.worker(("async",), WorkerOptions(stop_when_empty=True)).run()

    assert shop.trace.count("told") == 1
    assert len(driver_of(messenger, "failed").sent) == 1


def test_all_that_waits_is_done_even_when_one_of_it_fails() -> None:
    trace: list[str] = []

    def register(event: Register) -> None:
        for name in ("a", "fails", "b"):
            messenger.dispatch(Registered(name), AFTER)

    def welcome(event: Registered) -> None:
        trace.append(event.name)
        if event.name == "fails":
            raise ValueError("no")

    messenger = Messenger(MessengerConfig(), handlers=[register, welcome])
    with pytest.raises(HandlerFailedError):
        messenger.dispatch(Register("Ann"))

    assert trace == ["a", "fails", "b"]


def test_an_exit_in_what_one_handler_put_off_takes_nothing_from_the_others() -> None:
    told: list[str] = []

    def register(event: Register) -> None:
        messenger.dispatch(Registered("first"), AFTER)

    def greet(event: Register) -> None:
        messenger.dispatch(Registered("second"), AFTER)

    def welcome(event: Registered) -> None:
        told.append(event.name)
        if told == ["first"]:
            raise SystemExit

    config = MessengerConfig(
        buses={"bus": BusConfig(middleware=(MiddlewareConfig(name="idempotency"),))},
        transports={"async": TransportConfig(dsn="in-memory://", retry=RetryPolicy(delay=0))},
        routing={f"{__name__}.Register": ("async",)},
        store="memory://",
    )
    messenger = Messenger(config, handlers=[register, greet, welcome])
    messenger.dispatch(Register("Ann"))

    messenger.worker(("async",), WorkerOptions(stop_when_empty=True)).run()

    assert sorted(told) == ["first", "first", "second"]
    assert messenger.transport("async").counts() == Counts(0, 0, 0, 0)


def test_a_call_within_the_handler_leaves_it_to_the_outermost_one() -> None:
    trace: list[str] = []

    def register(event: Register) -> None:
        messenger.dispatch(Registered(event.name))
        trace.append("registered")

    def welcome(event: Registered) -> None:
        messenger.dispatch(Welcomed(event.name), AFTER)
        trace.append("welcome")

    def tell(event: Welcomed) -> None:
        trace.append("told")

    messenger = Messenger(MessengerConfig(), handlers=[register, welcome, tell])
    messenger.dispatch(Register("Ann"))

    assert trace == ["welcome", "registered", "told"]


def test_an_async_handler_can_put_off_too() -> None:
    trace: list[str] = []

    async def register(event: Register) -> None:
        await messenger.bus.dispatch_async(Registered(event.name), AFTER)
        trace.append("registered")

    async def welcome(event: Registered) -> None:
        trace.append("welcome")

    messenger = Messenger(MessengerConfig(), handlers=[register, welcome])
    messenger.dispatch(Register("Ann"))

    assert trace == ["registered", "welcome"]


# --- with a transaction ---


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    return path


def users(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM users")]


@pytest.fixture
def with_transaction(database: Path) -> Callable[..., Messenger]:
    def make(*handlers: Any) -> Messenger:
        middleware = tuple(MiddlewareConfig(name=name) for name in ("idempotency", "transaction"))
        return Messenger(
            MessengerConfig(
                buses={"bus": BusConfig(middleware=middleware)}, connections={"default": f"sqlite:///{database}"}
            ),
            handlers=handlers,
        )

    return make


def test_it_is_handled_after_the_commit(with_transaction: Callable[..., Messenger], database: Path) -> None:
    seen: list[list[str]] = []

    def register(event: Register, connection: Connection) -> None:
        messenger.dispatch(Registered(event.name), AFTER)
        connection.execute(text("INSERT INTO users VALUES (:name)"), {"name": event.name})

    def welcome(event: Registered) -> None:
        seen.append(users(database))

    with with_transaction(register, welcome) as messenger:
        messenger.dispatch(Register("Ann"))

    assert seen == [["Ann"]]


def test_a_handler_is_not_noted_as_done_before_it(with_transaction: Callable[..., Messenger], database: Path) -> None:
    fails = [True, False]

    def register(event: Register, connection: Connection) -> None:
        messenger.dispatch(Registered(event.name), AFTER)
        connection.execute(text("INSERT INTO users VALUES (:name)"), {"name": event.name})

    def welcome(event: Registered) -> None:
        if fails.pop(0):
            raise ValueError("no")

    with with_transaction(register, welcome) as messenger:
        with pytest.raises(HandlerFailedError) as caught:
            messenger.dispatch(Register("Ann"))
        messenger.dispatch(caught.value.envelope)
        messenger.dispatch(caught.value.envelope)

    assert fails == []
    assert users(database) == ["Ann", "Ann"], "its work was committed before, and is done again"
