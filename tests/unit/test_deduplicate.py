from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bus import (
    BusConfig,
    DeduplicatedStamp,
    DeduplicateStamp,
    DispatchManyError,
    Envelope,
    HandlerFailedError,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    RetryPolicy,
    SendRefused,
    TransportConfig,
    WorkerOptions,
    message,
)
from bus.errors import ConfigurationError, ConnectionLostError
from bus.stamps import HandledStamp, MessageIdStamp, ReceivedStamp, SentStamp
from bus.testing.clock import FakeClock
from bus.transports.base import Outgoing


@message("deduplicate.report")
@dataclass(frozen=True)
class Report:
    month: str


@message("deduplicate.placed")
@dataclass(frozen=True)
class Placed:
    id: str


def make(*handlers: Callable[..., Any], routed: bool = True, clock: Any = None) -> Messenger:
    def nothing(given: Report | Placed) -> None: ...

    return Messenger(
        MessengerConfig(
            store="memory://",
            transports={
                name: TransportConfig(dsn="in-memory://", retry=RetryPolicy(max_retries=1, delay=0))
                for name in ("queue", "orders")
            },
            routing={"deduplicate.report": ("queue",), "deduplicate.placed": ("orders",)} if routed else {},
        ),
        handlers=[*handlers, nothing],
        clock=clock,
    )


def waiting(messenger: Messenger, name: str = "queue") -> list[str]:
    return [each.message.month for each in messenger.transports[name].peek(100)]


def consume(messenger: Messenger, *names: str) -> None:
    messenger.worker(names or ("queue",), WorkerOptions(stop_when_empty=True)).run()


KEY = [DeduplicateStamp("report")]


def test_a_twin_is_dropped_and_its_envelope_says_so() -> None:
    messenger = make()

    first = messenger.bus.dispatch(Report("may"), KEY)
    second = messenger.bus.dispatch(Report("june"), KEY)

    assert first.last(DeduplicatedStamp) is None
    assert second.last(DeduplicatedStamp) == DeduplicatedStamp("report")
    assert second.last(SentStamp) is None
    assert waiting(messenger) == ["may"]


def test_other_keys_and_messages_without_one_pass() -> None:
    messenger = make()

    for stamps in (KEY, [DeduplicateStamp("other")], [], []):
        messenger.bus.dispatch(Report("may"), stamps)

    assert len(waiting(messenger)) == 4


@pytest.mark.parametrize("fails", [False, True])
def test_the_key_is_free_when_the_message_was_handled_whatever_came_of_it(fails: bool) -> None:
    seen: list[bool] = []

    def handle(report: Report) -> None:
        twin = messenger.bus.dispatch(Report("within"), KEY)
        seen.append(twin.last(DeduplicatedStamp) is not None)
        if fails and len(seen) == 1:
            raise ValueError("not yet")

    messenger = make(handle)
    messenger.bus.dispatch(Report("may"), KEY)
    (received,) = messenger.transports["queue"].get(1)
    try:
        messenger.bus.dispatch(received)
    except HandlerFailedError:
        assert fails

    assert seen == [True]
    assert messenger.bus.dispatch(Report("june"), KEY).last(DeduplicatedStamp) is None


def test_only_in_the_queue_a_twin_may_come_in_when_handling_begins() -> None:
    seen: list[object] = []

    def handle(report: Report) -> None:
        if report.month == "may":
            seen.append(messenger.bus.dispatch(Report("within"), stamps).last(DeduplicatedStamp))

    stamps = [DeduplicateStamp("report", only_deduplicate_in_queue=True)]
    messenger = make(handle)
    messenger.bus.dispatch(Report("may"), stamps)
    assert messenger.bus.dispatch(Report("june"), stamps).last(DeduplicatedStamp) is not None
    consume(messenger)

    assert seen == [None]


def test_the_key_is_free_after_its_time() -> None:
    clock = FakeClock()
    messenger = make(clock=clock)
    stamps = [DeduplicateStamp("report", ttl=60)]
    messenger.bus.dispatch(Report("may"), stamps)

    clock.advance(59)
    assert messenger.bus.dispatch(Report("june"), stamps).last(DeduplicatedStamp) is not None
    clock.advance(2)
    assert messenger.bus.dispatch(Report("july"), stamps).last(DeduplicatedStamp) is None


def test_a_message_whose_time_is_over_does_not_free_the_key_of_another() -> None:
    clock = FakeClock()
    messenger = make(clock=clock)
    stamps = [DeduplicateStamp("report", ttl=60)]
    messenger.bus.dispatch(Report("may"), stamps)
    clock.advance(61)
    messenger.bus.dispatch(Report("june"), stamps)
    (may,) = messenger.transports["queue"].get(1)

    messenger.bus.dispatch(may)

    assert messenger.bus.dispatch(Report("july"), stamps).last(DeduplicatedStamp) is not None


def test_the_same_envelope_is_no_twin_of_itself() -> None:
    messenger = make()

    first = messenger.bus.dispatch(Report("may"), KEY)
    again = messenger.bus.dispatch(first)

    assert again.last(DeduplicatedStamp) is None
    assert waiting(messenger) == ["may", "may"]


def test_what_is_handled_here_frees_its_key() -> None:
    messenger = make(routed=False)

    results = [messenger.bus.dispatch(Report("may"), KEY) for _ in range(2)]

    assert all(each.last(HandledStamp) for each in results)


def test_a_message_that_was_not_sent_frees_its_key() -> None:
    messenger = make()
    driver = messenger.transports["queue"].driver
    sending, driver.send = driver.send, lambda batch: [SendRefused("full") for _ in batch]  # type: ignore[method-assign]
    with pytest.raises(SendRefused):
        messenger.bus.dispatch(Report("may"), KEY)
    driver.send = sending  # type: ignore[method-assign]

    assert messenger.bus.dispatch(Report("may"), KEY).last(DeduplicatedStamp) is None


def test_in_a_batch_twins_are_dropped_and_what_was_not_sent_frees_its_key() -> None:
    messenger = make()
    driver = messenger.transports["queue"].driver
    sending = driver.send
    batch = [Envelope(Report("may"), (DeduplicateStamp("a"),)), Envelope(Report("june"), (DeduplicateStamp("b"),))]

    def refuse_june(outgoing: list[Outgoing]) -> list[Any]:
        sent = iter(sending([each for each in outgoing if b"june" not in each.body]))
        return [SendRefused("full") if b"june" in each.body else next(sent) for each in outgoing]

    driver.send = refuse_june  # type: ignore[method-assign]
    with pytest.raises(DispatchManyError):
        messenger.bus.dispatch_many(batch)
    driver.send = sending  # type: ignore[method-assign]

    may, june = messenger.bus.dispatch_many(batch)
    assert may.last(DeduplicatedStamp) is not None
    assert june.last(SentStamp) is not None


def test_what_a_failed_handler_dispatched_frees_its_key_and_the_retry_dispatches_it() -> None:
    attempts: list[object] = []

    def on_placed(event: Placed) -> None:
        attempts.append(messenger.bus.dispatch(Report("may"), KEY).last(DeduplicatedStamp))
        if len(attempts) == 1:
            raise ValueError("not yet")

    messenger = make(on_placed)
    messenger.bus.dispatch(Placed("o-1"))
    consume(messenger, "orders")

    assert attempts == [None, None]
    assert waiting(messenger) == ["may"]
    assert messenger.bus.dispatch(Report("june"), KEY).last(DeduplicatedStamp) is not None


def test_within_one_handler_the_second_is_dropped() -> None:
    seen: list[bool] = []

    def on_placed(event: Placed) -> None:
        seen.extend(messenger.bus.dispatch(Report("may"), KEY).last(DeduplicatedStamp) is None for _ in range(2))

    messenger = make(on_placed)
    messenger.bus.dispatch(Placed("o-1"))
    consume(messenger, "orders")

    assert seen == [True, False]
    assert waiting(messenger) == ["may"]


def test_the_next_attempt_takes_over_what_a_dead_worker_held_but_not_what_it_sent() -> None:
    def on_placed(event: Placed) -> None:
        messenger.bus.dispatch(Report("may"), KEY)

    messenger = make(on_placed)
    parent = messenger.bus.dispatch(Placed("o-1"), [ReceivedStamp("orders")])
    ((key, (value, _)),) = messenger.store._values.items()  # type: ignore[attr-defined]
    state, identity = json.loads(value)
    assert state == "sent"

    # As a worker left it that died before its handler had succeeded.
    cause = parent.last(MessageIdStamp).id
    held = json.dumps(["held", identity, cause, "12345.elsewhere"])
    assert messenger.store.swap(key, value, held)
    messenger.bus.dispatch(Placed("o-2"), [ReceivedStamp("orders")])
    assert waiting(messenger) == ["may"], "another message's handler does not take it over"
    messenger.bus.dispatch(parent.without(HandledStamp))
    assert waiting(messenger) == ["may", "may"]
    messenger.bus.dispatch(parent.without(HandledStamp))
    assert waiting(messenger) == ["may", "may"], "what was sent is not sent again"


def test_a_store_that_does_not_answer_refuses_the_dispatch_and_fails_no_handling(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    messenger = make()
    messenger.bus.dispatch(Report("may"), KEY)
    (received,) = messenger.transports["queue"].get(1)

    def down(*_: object) -> None:
        raise ConnectionLostError("the store is away")

    for step in ("put_if_absent", "delete_if", "get", "swap"):
        monkeypatch.setattr(messenger.store, step, down)

    with pytest.raises(ConnectionLostError):
        messenger.bus.dispatch(Report("june"), KEY)
    assert messenger.bus.dispatch(received).last(HandledStamp) is not None
    assert "stays taken until its time is over: the store is away" in caplog.text


def test_long_keys_are_told_apart() -> None:
    messenger = make()
    long = "k" * 5000

    dropped = [
        messenger.bus.dispatch(Report("may"), [DeduplicateStamp(key)]).last(DeduplicatedStamp) is not None
        for key in (long, long + "x", long)
    ]

    assert dropped == [False, False, True]


def test_two_processes_share_the_keys_of_an_sql_store(tmp_path: Any) -> None:
    config = MessengerConfig(
        store=f"sqlite:///{tmp_path}/store.db",
        transports={"queue": TransportConfig(dsn=f"sqlite:///{tmp_path}/queue.db")},
        routing={"deduplicate.report": ("queue",)},
    )

    def handle(report: Report) -> None: ...

    with Messenger(config, handlers=[handle]) as one, Messenger(config, handlers=[handle]) as other:
        one.bus.dispatch(Report("may"), KEY)
        assert other.bus.dispatch(Report("june"), KEY).last(DeduplicatedStamp) is not None
        other.worker(["queue"], WorkerOptions(stop_when_empty=True)).run()
        assert one.bus.dispatch(Report("july"), KEY).last(DeduplicatedStamp) is None


@pytest.mark.parametrize(("key", "ttl"), [("", 1), ("a", 0), ("a", -1), ("a", float("nan"))])
def test_a_stamp_without_a_key_or_time_is_refused(key: str, ttl: float) -> None:
    with pytest.raises(ConfigurationError):
        DeduplicateStamp(key, ttl)


def test_the_stamp_travels_in_a_header_of_ours() -> None:
    messenger = make()
    messenger.bus.dispatch(Report("may"), [DeduplicateStamp("report", 60.0, only_deduplicate_in_queue=True)])

    (outgoing,) = messenger.transports["queue"].driver.sent  # type: ignore[attr-defined]
    (received,) = messenger.transports["queue"].get(1)

    assert json.loads(outgoing.headers["X-Bus-Deduplicate"]) == [
        {"key": "report", "ttl": 60.0, "only_deduplicate_in_queue": True}
    ]
    assert received.last(DeduplicateStamp) == DeduplicateStamp("report", 60.0, only_deduplicate_in_queue=True)


def test_a_store_of_its_own_takes_the_place_of_the_default() -> None:
    def nothing(report: Report) -> None: ...

    own = MiddlewareConfig(name="deduplicate", arguments={"store": "memory://"})
    messenger = Messenger(
        MessengerConfig(
            # Nobody may use it: its folder does not exist.
            store="sqlite:////nowhere/at/all.db",
            buses={"main": BusConfig(middleware=(own,))},
            transports={"queue": TransportConfig(dsn="in-memory://")},
            routing={"deduplicate.report": ("queue",)},
        ),
        handlers=[nothing],
    )

    dropped = [messenger.bus.dispatch(Report("may"), KEY).last(DeduplicatedStamp) is not None for _ in range(2)]

    assert dropped == [False, True]
