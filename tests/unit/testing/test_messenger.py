"""A messenger for tests, in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bus import (
    BusConfig,
    ConfigurationError,
    DelayStamp,
    DispatchAfterCurrentBusStamp,
    ErrorDetailsStamp,
    HandledStamp,
    HandlerFailedError,
    MessageIdStamp,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    RetryPolicy,
    SentStamp,
    TransportConfig,
    UndecodableMessage,
    UnrecoverableError,
    message,
)
from bus.default_messenger import dispatch, replaced_by
from bus.rate_limit import RateLimit
from bus.testing import FakeClock, TestMessenger, in_memory, record_dispatches


@message("orders.Placed")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@message("mail.ReceiptSent")
@dataclass(frozen=True)
class ReceiptSent:
    order_id: str


CONFIG = MessengerConfig(
    transports={
        "async": TransportConfig(
            dsn="sqlite:///orders.db", options={"table_name": "orders"}, failure_transport="failed"
        ),
        "mail": TransportConfig(dsn="sqlite:///mail.db"),
        "failed": TransportConfig(dsn="sqlite:///failed.db"),
    },
    routing={"orders.*": ("async",), "mail.*": ("mail",)},
)


@pytest.fixture
def make() -> Iterator[Callable[..., TestMessenger]]:
    made: list[TestMessenger] = []

    def make(*handlers: Callable[..., Any], config: MessengerConfig = CONFIG, **options: Any) -> TestMessenger:
        made.append(TestMessenger(config, handlers=handlers, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., TestMessenger]


def ignore_order(event: OrderPlaced) -> None: ...


def ignore_receipt(event: ReceiptSent) -> None: ...


def fail_order(event: OrderPlaced) -> None:
    raise ValueError(f"no {event.order_id}")


def test_no_file_is_made_where_the_configuration_names_some(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    messenger = make(ignore_order)

    messenger.dispatch(OrderPlaced("o-1"))
    messenger.consume_all()

    assert list(tmp_path.iterdir()) == []


def test_what_a_transport_was_sent_is_decoded(make: Make) -> None:
    messenger = make(ignore_order)

    messenger.dispatch(OrderPlaced("o-1"), [DelayStamp(5000)])

    sent = messenger.sent("async").assert_contains(OrderPlaced("o-1"), times=1)
    assert sent.last(DelayStamp) == DelayStamp(5000)
    assert sent.last(MessageIdStamp) == messenger.dispatched[0].last(MessageIdStamp)
    messenger.sent("mail").assert_empty()


def test_a_transport_that_does_not_exist_is_an_error(make: Make) -> None:
    with pytest.raises(ConfigurationError, match=r'there is no transport "asnyc".*did you mean "async"'):
        make().sent("asnyc")


def test_what_was_sent_is_told_with_the_transport(make: Make) -> None:
    with pytest.raises(AssertionError, match='should have been sent to "async" at least once'):
        make().sent("async").assert_contains(OrderPlaced)


def test_dispatches_are_recorded_with_what_became_of_them(make: Make) -> None:
    messenger = make(ignore_order, config=MessengerConfig())

    messenger.dispatch(OrderPlaced("o-1"))

    assert messenger.dispatched.assert_contains(OrderPlaced).last(HandledStamp) is not None


def test_dispatches_of_handlers_are_recorded_and_receptions_are_not(make: Make) -> None:
    def announce(event: OrderPlaced) -> None:
        messenger.dispatch(ReceiptSent(event.order_id))

    messenger = make(announce, ignore_receipt)
    messenger.dispatch(OrderPlaced("o-1"))
    messenger.consume_all()

    messenger.dispatched.assert_exactly(OrderPlaced("o-1"), ReceiptSent("o-1"))


def test_a_nested_dispatch_stands_behind_the_one_that_led_to_it(make: Make) -> None:
    def announce(event: OrderPlaced) -> None:
        messenger.dispatch(ReceiptSent(event.order_id))

    messenger = make(announce, ignore_receipt, config=MessengerConfig())
    messenger.dispatch(OrderPlaced("o-1"))

    messenger.dispatched.assert_exactly(OrderPlaced, ReceiptSent)


def test_a_dispatch_that_is_put_off_is_recorded_once(make: Make) -> None:
    def announce(event: OrderPlaced) -> None:
        messenger.dispatch(ReceiptSent(event.order_id), [DispatchAfterCurrentBusStamp()])

    messenger = make(announce, ignore_receipt, config=MessengerConfig())
    messenger.dispatch(OrderPlaced("o-1"))

    messenger.dispatched.assert_exactly(OrderPlaced, ReceiptSent)


def test_a_dispatch_that_fails_is_recorded_as_well(make: Make) -> None:
    messenger = make(fail_order, config=MessengerConfig())

    with pytest.raises(HandlerFailedError):
        messenger.dispatch(OrderPlaced("o-1"))

    messenger.dispatched.assert_exactly(OrderPlaced("o-1"))


def test_every_way_to_dispatch_is_recorded(make: Make) -> None:
    messenger = make(ignore_order)

    messenger.bus.dispatch_many([OrderPlaced("o-1"), OrderPlaced("o-2")])
    asyncio.run(messenger.bus.dispatch_async(OrderPlaced("o-3")))
    with replaced_by(messenger):
        dispatch(OrderPlaced("o-4"))

    assert [each.order_id for each in messenger.dispatched.messages(OrderPlaced)] == ["o-1", "o-2", "o-3", "o-4"]


def test_every_bus_is_recorded(make: Make) -> None:
    messenger = make(
        config=MessengerConfig(buses={"a": BusConfig(), "b": BusConfig(allow_no_handlers=True)}, default_bus="a")
    )

    messenger.buses["b"].dispatch(OrderPlaced("o-1"))

    messenger.dispatched.assert_exactly(OrderPlaced)


def test_dispatches_of_many_threads_are_all_recorded(make: Make) -> None:
    messenger = make(ignore_order, config=MessengerConfig())

    threads = [
        threading.Thread(target=lambda: [messenger.dispatch(OrderPlaced(str(n))) for n in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    messenger.dispatched.assert_contains(OrderPlaced, lambda event: event.order_id == "7", times=8)
    assert len(messenger.dispatched) == 400


def test_consuming_goes_on_until_nothing_is_due_anywhere(make: Make) -> None:
    def announce(event: OrderPlaced) -> None:
        messenger.dispatch(ReceiptSent(event.order_id))

    messenger = make(announce, ignore_receipt)
    messenger.dispatch(OrderPlaced("o-1"))

    settled = messenger.consume_all()

    assert [(each.transport_name, each.outcome) for each in settled] == [("async", "handled"), ("mail", "handled")]
    messenger.acknowledged().assert_exactly(OrderPlaced, ReceiptSent)
    messenger.waiting().assert_empty()


def test_only_the_named_transports_are_consumed(make: Make) -> None:
    messenger = make(ignore_order, ignore_receipt)
    messenger.dispatch(OrderPlaced("o-1"))
    messenger.dispatch(ReceiptSent("o-1"))

    messenger.consume_all("mail")

    messenger.acknowledged("mail").assert_exactly(ReceiptSent)
    messenger.waiting("async").assert_exactly(OrderPlaced)


def test_async_handlers_are_consumed_too(make: Make) -> None:
    seen = []

    async def handle(event: OrderPlaced) -> None:
        await asyncio.sleep(0)
        seen.append(event.order_id)

    messenger = make(handle)
    messenger.dispatch(OrderPlaced("o-1"))

    messenger.consume_all()
    messenger.dispatch(OrderPlaced("o-2"))
    messenger.consume_all()

    assert seen == ["o-1", "o-2"]


def test_a_handler_that_fails_fails_the_test(make: Make) -> None:
    messenger = make(fail_order)
    messenger.dispatch(OrderPlaced("o-1"))

    with pytest.raises(HandlerFailedError, match="no o-1") as failed:
        messenger.consume_all()

    assert isinstance(failed.value.__cause__, ValueError)


def test_several_failures_are_raised_together(make: Make) -> None:
    messenger = make(fail_order)
    messenger.bus.dispatch_many([OrderPlaced("o-1"), OrderPlaced("o-2")])

    with pytest.raises(ExceptionGroup, match="2 messages failed"):
        messenger.consume_all()


def test_a_failure_may_be_what_the_test_is_about(make: Make) -> None:
    messenger = make(fail_order)
    messenger.dispatch(OrderPlaced("o-1"))

    (settled,) = messenger.consume_all(allow_failures=True)

    assert settled.outcome == "retried"
    messenger.waiting("async").assert_exactly(OrderPlaced)


def test_retries_are_due_when_the_clock_is_moved(make: Make) -> None:
    messenger = make(fail_order)
    messenger.dispatch(OrderPlaced("o-1"))

    outcomes = []
    for _ in range(4):
        outcomes += [each.outcome for each in messenger.consume_all(allow_failures=True)]
        messenger.clock.advance(60)

    assert outcomes == ["retried", "retried", "retried", "failed"]
    failed = messenger.waiting("failed").assert_contains(OrderPlaced("o-1"), times=1)
    error = failed.last(ErrorDetailsStamp)
    assert error is not None
    assert error.exception_message == "no o-1"


def test_a_delayed_message_waits_for_the_clock(make: Make) -> None:
    messenger = make(ignore_order)
    messenger.dispatch(OrderPlaced("o-1"), [DelayStamp(5000)])

    assert messenger.consume_all() == []
    messenger.clock.advance(5)
    assert len(messenger.consume_all()) == 1


def test_failed_messages_are_not_consumed_unless_they_are_named(make: Make) -> None:
    def give_up(event: OrderPlaced) -> None:
        raise UnrecoverableError("no use")

    messenger = make(give_up)
    messenger.dispatch(OrderPlaced("o-1"))
    messenger.consume_all(allow_failures=True)

    assert messenger.consume_all() == []
    (settled,) = messenger.consume_all("failed", allow_failures=True)
    assert settled.outcome == "parked"


def test_what_is_given_up_without_a_failure_transport_is_rejected(make: Make) -> None:
    def give_up(event: ReceiptSent) -> None:
        raise UnrecoverableError("no use")

    messenger = make(give_up)
    messenger.dispatch(ReceiptSent("o-1"))
    messenger.consume_all(allow_failures=True)

    messenger.rejected("mail").assert_exactly(ReceiptSent("o-1"))
    messenger.acknowledged("mail").assert_empty()


def test_a_message_that_does_not_survive_the_wire_shows(make: Make) -> None:
    messenger = make()

    messenger.dispatch(OrderPlaced("o-1"))

    messenger.sent("async").assert_exactly(UndecodableMessage)


def test_without_transports_there_is_nothing_to_consume(make: Make) -> None:
    assert make(config=MessengerConfig()).consume_all() == []


def test_transports_that_are_kept_are_not_looked_into(make: Make, tmp_path: Path) -> None:
    config = MessengerConfig(
        transports={"async": TransportConfig(dsn=f"sqlite:///{tmp_path}/orders.db")}, routing={"*": ("async",)}
    )
    messenger = make(ignore_order, config=config, keep_transports=True)
    messenger.dispatch(OrderPlaced("o-1"))

    messenger.waiting("async").assert_exactly(OrderPlaced)
    with pytest.raises(ConfigurationError, match='the transport "async" is not in memory'):
        messenger.sent("async")
    assert [each.outcome for each in messenger.consume_all()] == ["handled"]
    assert (tmp_path / "orders.db").exists()


def test_sync_transports_stay_and_everything_of_the_broker_goes() -> None:
    limited = TransportConfig(
        dsn="sqlite:///a.db",
        options={"table_name": "a"},
        outbox="default",
        rate_limiter="calls",
        retry=RetryPolicy(delay=7),
    )
    config = MessengerConfig(
        transports={"now": TransportConfig(dsn="sync://"), "later": limited},
        rate_limiters={"calls": RateLimit(policy="fixed_window", limit=1, interval=60)},
    )

    changed = in_memory(config).transports

    assert changed["now"].dsn == "sync://"
    assert changed["later"] == TransportConfig(dsn="in-memory://", retry=RetryPolicy(delay=7))


@pytest.mark.parametrize(
    "middleware",
    [
        MiddlewareConfig(name="idempotency", arguments={"store": "sqlite:///s.db", "ttl": "24h"}),
        MiddlewareConfig(name="idempotency", positional=("sqlite:///s.db", "24h")),
        MiddlewareConfig(name="idempotency"),
        MiddlewareConfig(name="deduplicate", arguments={"store": "sqlite:///s.db"}),
    ],
)
def test_middleware_keeps_its_notes_in_memory(
    make: Make, middleware: MiddlewareConfig, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    config = MessengerConfig(
        buses={"b": BusConfig(middleware=(middleware,))},
        transports={"async": TransportConfig(dsn="sqlite:///orders.db")},
        routing={"*": ("async",)},
    )
    messenger = make(ignore_order, config=config)
    messenger.dispatch(OrderPlaced("o-1"))

    assert [each.outcome for each in messenger.consume_all()] == ["handled"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_in_the_environment_test(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("APP_ENV", "prod")
    file = tmp_path / "messenger.yaml"
    file.write_text(
        """
        messenger: {transports: {async: 'sqlite:///x.db'}}
        when@prod: {messenger: {transports: {prod: 'sqlite:///y.db'}}}
        when@test: {messenger: {transports: {test: 'sqlite:///z.db'}}}
        """
    )

    with TestMessenger.from_yaml(file) as messenger:
        assert set(messenger.transports) == {"async", "test"}
    with TestMessenger.from_yaml(file, environment={"APP_ENV": "prod"}) as messenger:
        assert set(messenger.transports) == {"async", "prod"}


def test_a_section_for_tests_may_change_the_dsn_alone(tmp_path: Path) -> None:
    file = tmp_path / "messenger.yaml"
    file.write_text(
        """
        messenger:
          transports:
            async: {dsn: 'doctrine://default', options: {queue_name: orders}, retry_strategy: {max_retries: 1}}
        when@test:
          messenger:
            transports:
              async: 'in-memory://'
        """
    )

    with Messenger.from_yaml(file, environment={"APP_ENV": "test"}) as messenger:
        config = messenger.config.transports["async"]
        assert (config.dsn, config.retry.max_retries) == ("in-memory://", 1)
        assert type(messenger.transport("async").driver).__name__ == "MemoryDriver"


def test_a_clock_may_be_given(make: Make) -> None:
    clock = FakeClock(now=1_000_000_000)

    assert make(clock=clock).clock is clock


def test_a_messenger_as_it_is_can_be_recorded_for_a_while() -> None:
    with Messenger(handlers=[ignore_order, ignore_receipt]) as messenger:
        with record_dispatches(messenger) as recorded:
            messenger.dispatch(OrderPlaced("o-1"))
        messenger.dispatch(ReceiptSent("o-1"))

    recorded.assert_exactly(OrderPlaced)


def test_two_recordings_do_not_disturb_each_other(make: Make) -> None:
    messenger = make(ignore_order, ignore_receipt, config=MessengerConfig())
    with record_dispatches(messenger) as outer:
        with record_dispatches(messenger) as inner:
            messenger.dispatch(OrderPlaced("o-1"))
        messenger.dispatch(ReceiptSent("o-1"))

    inner.assert_exactly(OrderPlaced)
    outer.assert_exactly(OrderPlaced, ReceiptSent)
    messenger.dispatched.assert_exactly(OrderPlaced, ReceiptSent)


def test_what_was_sent_says_so_on_the_recorded_envelope(make: Make) -> None:
    messenger = make(ignore_order)

    messenger.dispatch(OrderPlaced("o-1"))

    assert messenger.dispatched[0].all(SentStamp) == (SentStamp("async"),)


def test_the_default_messenger_comes_back() -> None:
    seen: list[str] = []
    with (
        Messenger(handlers=[handler_called(seen, "outer")]) as outer,
        Messenger(handlers=[handler_called(seen, "inner")]) as inner,
        replaced_by(outer),
    ):
        with replaced_by(inner):
            dispatch(OrderPlaced("o-1"))
        dispatch(OrderPlaced("o-2"))

    assert seen == ["inner", "outer"]


def handler_called(seen: list[str], name: str) -> Callable[[OrderPlaced], None]:
    def handle(event: OrderPlaced) -> None:
        seen.append(name)

    return handle
