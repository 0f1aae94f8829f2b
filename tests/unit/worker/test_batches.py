from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from bus import (
    BatchFailedError,
    BusConfig,
    Envelope,
    HandlerFailedError,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    RetryPolicy,
    TransportConfig,
    WorkerOptions,
    handler,
    message,
)
from bus.batches import Batches
from bus.errors import ConfigurationError
from bus.inspection import describe_buses
from bus.lanes import Lanes, ReceivedMessage
from bus.seats import WorkerSeat
from bus.stamps import (
    DispatchAfterCurrentBusStamp,
    MessageIdStamp,
    PartitionKeyStamp,
    RedeliveryStamp,
    TransportNamesStamp,
)
from bus.testing.clock import FakeClock
from bus.transports.base import Claim
from bus.window import Window

LONG = "1h"  # a wait that no test sees the end of


@message("batches.row")
@dataclass(frozen=True)
class Row:
    number: int


@message("batches.other")
@dataclass(frozen=True)
class Other:
    number: int


@message("batches.sent")
@dataclass(frozen=True)
class Sent:
    number: int


class Recorder:
    """Notes the batches that it is called with, and does what a test wants with them."""

    def __init__(self, act: Callable[[list[Row]], Any] = lambda rows: None) -> None:
        self.batches: list[list[int]] = []
        self._act = act

    def note(self, rows: list[Row]) -> Any:
        self.batches.append([each.number for each in rows])
        return self._act(rows)

    def handler(self, size: int = 100, wait: str = LONG) -> Callable[..., Any]:
        @handler(batch_size=size, batch_wait=wait)
        def in_batches(rows: list[Row]) -> Any:
            return self.note(rows)

        return in_batches


def make(*handlers: Callable[..., Any], middleware: Sequence[str] = (), retries: int = 2) -> Messenger:
    names = ("first", "second", "out", "failed")
    config = MessengerConfig(
        store="memory://",
        failure_transport="failed",
        buses={"main": BusConfig(middleware=tuple(MiddlewareConfig(name=name) for name in middleware))},
        transports={
            name: TransportConfig(dsn="in-memory://", retry=RetryPolicy(max_retries=retries, delay=0)) for name in names
        },
    )

    def on_sent(sent: Sent) -> None: ...

    return Messenger(config, handlers=[*handlers, on_sent])


def send(messenger: Messenger, *messages: object, to: str = "first", key: str | None = None) -> None:
    stamps = [TransportNamesStamp(to), *([PartitionKeyStamp(key)] if key else [])]
    messenger.bus.dispatch_many(messages, stamps)


def rows(count: int, begin: int = 0) -> list[Row]:
    return [Row(number) for number in range(begin, begin + count)]


def consume(messenger: Messenger, *names: str, **options: Any) -> None:
    messenger.worker(names or ("first",), WorkerOptions(stop_when_empty=True, **options)).run()


def left(messenger: Messenger, *names: str) -> list[int]:
    return [each.message.number for name in names or ("first",) for each in messenger.transports[name].peek(1000)]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_messages_are_handled_in_lists_of_the_batch_size(concurrency: int) -> None:
    record = Recorder()
    messenger = make(record.handler(size=5))
    send(messenger, *rows(20))

    consume(messenger, concurrency=concurrency)

    assert [len(each) for each in record.batches] == [5, 5, 5, 5]
    assert sorted(number for each in record.batches for number in each) == list(range(20))
    assert left(messenger) == []


def test_a_batch_fills_however_small_the_window_is() -> None:
    record = Recorder()
    messenger = make(record.handler(size=50))
    send(messenger, *rows(100))

    consume(messenger, fetch_size=2)

    assert [len(each) for each in record.batches] == [50, 50]


def test_when_nothing_more_comes_the_handler_gets_what_there_is() -> None:
    record = Recorder()
    messenger = make(record.handler(size=100))
    send(messenger, *rows(7))

    consume(messenger)

    assert record.batches == [list(range(7))]


def test_messages_of_all_receivers_go_into_one_batch() -> None:
    record = Recorder()
    messenger = make(record.handler(size=6))
    send(messenger, *rows(3), to="first")
    send(messenger, *rows(3, begin=3), to="second")

    consume(messenger, "first", "second")

    # How much each gives at a time depends on the window, which follows the time that handlers take.
    assert [sorted(each) for each in record.batches] == [list(range(6))]


def test_after_the_wait_the_handler_gets_what_there_is_even_when_others_are_busy(running, eventually) -> None:
    record = Recorder()
    done = threading.Event()

    def busy(other: Other) -> None:
        done.wait(20)

    messenger = make(record.handler(size=100, wait="50ms"), busy)
    send(messenger, Other(0), *rows(3))

    with running(messenger.worker(["first"], WorkerOptions(concurrency=2))):
        eventually(lambda: sum(map(len, record.batches)) == 3)
        done.set()


def test_what_waits_for_its_batch_holds_no_other_message_back(running, eventually) -> None:
    record = Recorder()
    handled: list[int] = []

    def at_once(other: Other) -> None:
        handled.append(other.number)
        if other.number == 9:
            send(messenger, *rows(2, begin=8))

    messenger = make(record.handler(size=10), at_once)
    send(messenger, *rows(8), *(Other(number) for number in range(10)))

    consume(messenger, concurrency=1)

    assert handled == list(range(10))
    assert record.batches == [list(range(10))]


def test_no_more_is_handled_at_once_than_the_concurrency_allows() -> None:
    busy: list[int] = []
    most: list[int] = []

    def work(_: object) -> None:
        busy.append(1)
        most.append(len(busy))
        threading.Event().wait(0.001)
        busy.pop()

    def one(other: Other) -> None:
        work(other)

    messenger = make(Recorder(work).handler(size=3), one)
    for number in range(20):
        send(messenger, *rows(3), Other(number))

    consume(messenger, concurrency=1)

    assert len(most) == 40
    assert max(most) == 1


def test_a_stop_flushes_what_was_collected(running, eventually) -> None:
    record = Recorder()
    begun, go_on = threading.Event(), threading.Event()

    def busy(other: Other) -> None:
        begun.set()
        go_on.wait(20)

    messenger = make(record.handler(size=100), busy)
    send(messenger, *rows(5), Other(0))
    worker = messenger.worker(["first"], WorkerOptions(concurrency=2))

    with running(worker):
        assert begun.wait(20)
        eventually(lambda: len(worker._lanes.aside) == 5)
        worker.stop()
        go_on.set()

    assert record.batches == [list(range(5))]
    assert left(messenger) == []


@pytest.mark.parametrize("by", ["position", "message"])
def test_only_those_messages_that_the_handler_names_have_failed_and_each_is_tried_again(by: str) -> None:
    def refuse_odd(given: list[Row]) -> None:
        failed = {
            (position if by == "position" else row): ValueError(f"row {row.number}")
            for position, row in enumerate(given)
            if row.number % 2 and len(record.batches) == 1
        }
        if failed:
            raise BatchFailedError(failed)

    record = Recorder(refuse_odd)
    messenger = make(record.handler(size=4))
    send(messenger, *rows(4))

    consume(messenger)

    assert record.batches == [[0, 1, 2, 3], [1, 3]]
    assert left(messenger, "first", "failed") == []


def test_any_other_error_fails_them_all_and_each_goes_its_own_way() -> None:
    def fail(given: list[Row]) -> None:
        raise ValueError("the table is locked")

    record = Recorder(fail)
    messenger = make(record.handler(size=3), retries=1)
    send(messenger, *rows(3))

    consume(messenger)

    assert record.batches == [[0, 1, 2], [0, 1, 2]]
    stored = messenger.transports["failed"].peek(10)
    assert sorted(each.message.number for each in stored) == [0, 1, 2]
    assert all("the table is locked" in repr(each.stamps) for each in stored)


def test_an_error_for_a_message_that_is_not_in_the_batch_fails_them_all() -> None:
    def fail(given: list[Row]) -> None:
        raise BatchFailedError({7: ValueError("x")})

    messenger = make(Recorder(fail).handler(size=3), retries=0)
    send(messenger, *rows(3))

    consume(messenger)

    assert sorted(left(messenger, "failed")) == [0, 1, 2]


def test_an_async_handler_takes_lists_too() -> None:
    batches: list[list[int]] = []

    @handler(batch_size=4, batch_wait=LONG)
    async def in_batches(given: list[Row]) -> None:
        batches.append([each.number for each in given])

    messenger = make(in_batches)
    send(messenger, *rows(8))

    consume(messenger)

    assert [len(each) for each in batches] == [4, 4]


def test_other_handlers_of_the_message_run_for_each_of_them() -> None:
    record = Recorder()
    single: list[int] = []

    def one(row: Row) -> None:
        single.append(row.number)

    messenger = make(record.handler(size=3), one)
    send(messenger, *rows(3))

    consume(messenger)

    assert record.batches == [[0, 1, 2]]
    assert sorted(single) == [0, 1, 2]


def test_without_a_worker_a_batch_is_of_one() -> None:
    record = Recorder(lambda given: given[0].number * 2)
    messenger = make(record.handler())

    assert messenger.handle(Row(4)) == 8
    assert record.batches == [[4]]


def test_without_a_worker_the_error_of_the_message_is_that_of_the_handler() -> None:
    def fail(given: list[Row]) -> None:
        raise BatchFailedError({given[0]: LookupError("no such table")})

    messenger = make(Recorder(fail).handler())

    with pytest.raises(HandlerFailedError) as caught:
        messenger.bus.dispatch(Row(4))

    assert [type(each) for each in caught.value.errors.values()] == [LookupError]


@pytest.mark.parametrize("all_fail", [ValueError("all"), BatchFailedError({0: ValueError(), 1: ValueError()})])
def test_what_is_sent_inside_leaves_when_one_message_at_least_was_handled(all_fail: Exception) -> None:
    outcomes: list[BaseException | None] = [all_fail, BatchFailedError({0: ValueError("one")}), None]

    def act(given: list[Row]) -> None:
        messenger.bus.dispatch(Sent(len(record.batches)), [TransportNamesStamp("out")])
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    record = Recorder(act)
    messenger = make(record.handler(size=2))
    send(messenger, *rows(2))

    consume(messenger)

    assert record.batches == [[0, 1], [0, 1], [0]]
    assert left(messenger, "out") == [2, 3]


def test_what_a_batch_puts_off_is_done_when_the_handler_is_through() -> None:
    done: list[str] = []

    def at_once(other: Other) -> None:
        done.append("put off")

    def act(given: list[Row]) -> None:
        messenger.bus.dispatch(Other(0), [DispatchAfterCurrentBusStamp()])
        done.append("handler")

    messenger = make(Recorder(act).handler(size=2), at_once)
    send(messenger, *rows(2))

    consume(messenger)

    assert done == ["handler", "put off"]


def test_idempotency_skips_each_message_by_itself() -> None:
    record = Recorder()
    messenger = make(record.handler(size=2), middleware=["idempotency"])
    twice = [Envelope(Row(1), (MessageIdStamp("one"),)), Envelope(Row(2), (MessageIdStamp("two"),))]
    send(messenger, *twice)
    consume(messenger)

    send(messenger, *twice, Row(3))
    consume(messenger)

    assert record.batches == [[1, 2], [3]]
    assert left(messenger) == []


def test_a_message_that_may_have_killed_a_worker_is_handled_alone() -> None:
    record = Recorder()
    messenger = make(record.handler(size=3))
    send(messenger, *rows(6))
    for stored in messenger.transports["first"].driver._messages.values():  # type: ignore[attr-defined]
        if stored.outgoing.body == b'{"number":3}':
            stored.deliveries = 1

    consume(messenger)

    assert [3] in record.batches
    assert sorted(number for each in record.batches for number in each) == list(range(6))


def test_a_suspect_does_not_wait_for_others() -> None:
    lanes, window = Lanes(1, 1), Window(1)
    seats = {}
    for deliveries in (1, 2):
        received = ReceivedMessage(Envelope(Row(1)), Claim(deliveries, deliveries, "queue"), 0)
        lanes.take_in([received])
        begun = lanes.begin_next(suspects=True)
        assert begun is received
        seats[deliveries] = WorkerSeat(Batches(), received, lanes, window, FakeClock(), lambda message: None).may_leave
        lanes.end(received)

    assert seats == {1: True, 2: False}


def test_messages_of_one_key_are_in_one_batch_only_one_at_a_time_and_in_their_order() -> None:
    record = Recorder()
    messenger = make(record.handler(size=10))
    send(messenger, *rows(3), key="a")
    send(messenger, *rows(3, begin=10), key="b")

    consume(messenger, fetch_size=10)

    assert [sorted(each) for each in record.batches] == [[0, 10], [1, 11], [2, 12]]


def test_the_handler_may_ask_for_the_envelopes() -> None:
    seen: list[list[str]] = []

    @handler(batch_size=2, batch_wait=LONG)
    def in_batches(given: list[Row], envelopes: list[Envelope]) -> None:
        assert [each.message for each in envelopes] == given
        seen.append([each.last(MessageIdStamp).id for each in envelopes])

    messenger = make(in_batches)
    ids = [Envelope(Row(number), (MessageIdStamp(f"id-{number}"),)) for number in range(2)]
    send(messenger, *ids)

    consume(messenger)

    assert seen == [["id-0", "id-1"]]


def test_each_message_of_a_failed_batch_bears_its_own_count_of_retries() -> None:
    seen: list[int] = []

    @handler(batch_size=2, batch_wait=LONG)
    def in_batches(given: list[Row], envelopes: list[Envelope]) -> None:
        counts = [stamp.retry_count if (stamp := each.last(RedeliveryStamp)) else 0 for each in envelopes]
        seen.append(max(counts))
        if max(counts) < 2:
            raise ValueError("not yet")

    messenger = make(in_batches)
    send(messenger, *rows(2))

    consume(messenger)

    assert seen == [0, 1, 2]
    assert left(messenger, "first", "failed") == []


def test_a_limit_of_messages_flushes_what_was_begun_and_begins_no_more() -> None:
    record = Recorder()
    messenger = make(record.handler(size=100))
    send(messenger, *rows(10))
    worker = messenger.worker(["first"], WorkerOptions())
    worker.allow(4)

    worker.run()

    assert record.batches == [[0, 1, 2, 3]]
    assert left(messenger) == [4, 5, 6, 7, 8, 9]


def test_many_messages_are_collected_by_several_threads_without_losing_one() -> None:
    record = Recorder()
    single: list[int] = []

    def one(other: Other) -> None:
        single.append(other.number)

    messenger = make(record.handler(size=7), one)
    for begin in range(0, 700, 7):
        send(messenger, *rows(7, begin=begin), Other(begin))

    consume(messenger, concurrency=8)

    assert sorted(number for each in record.batches for number in each) == list(range(700))
    assert len(single) == 100
    assert max(map(len, record.batches)) <= 7


def test_a_transaction_around_a_batch_handler_is_refused_when_the_messenger_is_built() -> None:
    with pytest.raises(
        ConfigurationError, match=r'"transaction" cannot stand around batch handlers.*in_batches'
    ) as caught:
        make(Recorder().handler(), middleware=["transaction"])

    assert "let them begin and commit a transaction of their own" in str(caught.value)


def test_debug_shows_the_size_of_batches() -> None:
    (bus,) = describe_buses(make(Recorder().handler(size=7)))

    assert ("batches of 7",) in [each.notes for description in bus.messages for each in description.handlers]
