from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from bus import BusConfig, Messenger, MessengerConfig, MiddlewareConfig, TransportConfig, handler
from bus.envelope import Envelope
from bus.errors import (
    BusError,
    ConfigurationError,
    ConnectionLostError,
    DispatchManyError,
    EncodingError,
    HandlerFailedError,
    NoHandlerError,
    SendFailedError,
    SendRefused,
    UnrecoverableError,
)
from bus.messages import message
from bus.middleware.base import CallNext
from bus.stamps import (
    BusNameStamp,
    CausationStamp,
    CorrelationStamp,
    DelayStamp,
    HandledBySyncTransportStamp,
    HandledStamp,
    HeldStamp,
    MessageIdStamp,
    PartitionKeyStamp,
    ReceivedStamp,
    SentStamp,
    Stamp,
    TransportNamesStamp,
)
from bus.transports.base import Outgoing
from bus.worker_options import WorkerOptions


@dataclass(frozen=True)
class Placed:
    id: str


@dataclass(frozen=True)
class Billed:
    id: str


@message(partition_key="id")
@dataclass(frozen=True)
class Keyed:
    id: str

    def default_stamps(self) -> list[Stamp]:
        return [DelayStamp(5)]


class Recorder:
    """A handler that notes what it was given, and fails when told to."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.error: BaseException | None = None

    def __call__(self, event: Placed | Billed | Keyed, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        if self.error is not None:
            raise self.error
        return f"handled {event.id}"


def messenger(*handlers: Any, **routing: str | tuple[str, ...]) -> Messenger:
    names = {name for value in routing.values() for name in ((value,) if isinstance(value, str) else value)}
    transports = {
        name: TransportConfig(dsn="sync://" if name.startswith("sync") else "in-memory://") for name in sorted(names)
    }
    routes = {
        f"{__name__}.{key}": (value,) if isinstance(value, str) else tuple(value) for key, value in routing.items()
    }
    return Messenger(MessengerConfig(transports=transports, routing=routes), handlers=handlers)


def sent(bus: Messenger, name: str = "queue") -> list[Outgoing]:
    return bus.transports[name].driver.sent  # type: ignore[attr-defined]


def test_without_a_route_the_message_is_handled_here_and_now():
    record = Recorder()

    envelope = messenger(record).bus.dispatch(Placed("o-1"))

    assert envelope.last(HandledStamp).result == "handled o-1"
    assert record.envelopes[0].message == Placed("o-1")


def test_a_routed_message_is_sent_and_not_handled():
    record = Recorder()
    bus = messenger(record, Placed="queue")

    envelope = bus.bus.dispatch(Placed("o-1"))

    assert envelope.last(SentStamp) == SentStamp("queue")
    assert record.envelopes == []
    assert [each.body for each in sent(bus)] == [b'{"id":"o-1"}']


def test_a_received_message_is_handled_and_never_sent_again():
    record = Recorder()
    bus = messenger(record, Placed="queue")

    bus.bus.dispatch(Placed("o-1"), [ReceivedStamp("queue")])

    assert len(record.envelopes) == 1
    assert sent(bus) == []


def test_every_dispatch_gives_an_id_of_its_own_and_keeps_one_that_is_there():
    bus = messenger(Recorder()).bus

    first, second = bus.dispatch(Placed("a")), bus.dispatch(Placed("a"))
    again = bus.dispatch(first)

    assert first.last(MessageIdStamp) != second.last(MessageIdStamp)
    assert again.all(MessageIdStamp) == first.all(MessageIdStamp)


def test_correlation_and_causation_follow_from_message_to_message():
    seen = {}

    def on_placed(event: Placed) -> None:
        bus.bus.dispatch(Billed(event.id))

    def on_billed(event: Billed, envelope: Envelope) -> None:
        seen["billed"] = envelope
        bus.bus.dispatch(Keyed(event.id))

    def on_keyed(event: Keyed, envelope: Envelope) -> None:
        seen["keyed"] = envelope

    bus = messenger(on_placed, on_billed, on_keyed)
    root = bus.bus.dispatch(Placed("o-1")).last(MessageIdStamp).id

    billed, keyed = seen["billed"], seen["keyed"]
    assert billed.last(CausationStamp).id == root
    assert keyed.last(CausationStamp).id == billed.last(MessageIdStamp).id
    assert {each.last(CorrelationStamp).id for each in (billed, keyed)} == {root}


def test_the_bus_and_default_stamps_and_partition_key_are_noted():
    record = Recorder()

    messenger(record).bus.dispatch(Keyed("k"))

    given = record.envelopes[0]
    assert given.last(BusNameStamp) == BusNameStamp("messenger.bus.default")
    assert given.last(PartitionKeyStamp) == PartitionKeyStamp("k")
    assert given.last(DelayStamp) == DelayStamp(5)


def test_a_stamp_of_the_dispatch_goes_before_a_default_one():
    record = Recorder()

    messenger(record).bus.dispatch(Keyed("k"), [DelayStamp(9), PartitionKeyStamp("own")])

    assert record.envelopes[0].all(DelayStamp) == (DelayStamp(9),)
    assert record.envelopes[0].all(PartitionKeyStamp) == (PartitionKeyStamp("own"),)


def test_a_message_that_nobody_handles_is_an_error_unless_the_bus_allows_it():
    with pytest.raises(NoHandlerError, match=r"Placed"):
        messenger().bus.dispatch(Placed("o-1"))

    relaxed = Messenger(MessengerConfig(buses={"event.bus": BusConfig(allow_no_handlers=True)}))
    assert relaxed.bus.dispatch(Placed("o-1")).last(HandledStamp) is None


def test_all_handlers_run_even_when_one_fails_and_a_repetition_runs_only_that_one():
    calls = []

    @handler(priority=2)
    def first(event: Placed) -> None:
        calls.append("first")
        if calls.count("first") == 1:
            raise ValueError("not yet")

    @handler(priority=1)
    def second(event: Placed) -> None:
        calls.append("second")

    bus = messenger(first, second).bus
    with pytest.raises(HandlerFailedError, match="not yet") as caught:
        bus.dispatch(Placed("o-1"))
    bus.dispatch(caught.value.envelope)

    assert calls == ["first", "second", "first"]
    assert [type(error) for error in caught.value.errors.values()] == [ValueError]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_exit_in_a_handler_leaves_a_program_but_not_a_worker(error):
    record = Recorder()
    record.error = error
    bus = messenger(record, Billed="queue").bus

    with pytest.raises(type(error)):
        bus.dispatch(Placed("o-1"))
    decided = bus.dispatch(Placed("o-1"), [ReceivedStamp("queue")])

    assert [type(stamp).__name__ for stamp in decided.stamps][-1] == "RetryDecisionStamp"


def test_what_a_handler_sends_is_held_until_it_succeeded():
    at_end = []

    def on_placed(event: Placed) -> None:
        envelope = bus.bus.dispatch(Billed(event.id))
        at_end.append((envelope.last(HeldStamp), list(sent(bus))))

    bus = messenger(on_placed, Billed="queue")
    bus.bus.dispatch(Placed("o-1"))

    assert at_end == [(HeldStamp("queue"), [])]
    assert [each.body for each in sent(bus)] == [b'{"id":"o-1"}']


def test_what_a_failed_handler_sent_is_dropped_and_what_another_sent_is_not():
    @handler(priority=1)
    def failing(event: Placed) -> None:
        bus.bus.dispatch(Billed("from the failed one"))
        raise ValueError

    def working(event: Placed) -> None:
        bus.bus.dispatch(Billed("kept"))

    bus = messenger(failing, working, Billed="queue")
    with pytest.raises(HandlerFailedError):
        bus.bus.dispatch(Placed("o-1"))

    assert [each.body for each in sent(bus)] == [b'{"id":"kept"}']


def test_a_held_message_that_cannot_be_sent_fails_its_handler(monkeypatch):
    def on_placed(event: Placed) -> None:
        bus.bus.dispatch(Billed(event.id))

    bus = messenger(on_placed, Billed="queue")
    monkeypatch.setattr(bus.transports["queue"].driver, "send", lambda batch: [SendRefused("full")] * len(batch))

    with pytest.raises(HandlerFailedError, match="SendRefused: full") as caught:
        bus.bus.dispatch(Placed("o-1"))
    assert caught.value.envelope.last(HandledStamp) is None


def test_a_held_message_keeps_the_content_that_it_had_when_it_was_dispatched():
    @dataclass
    class Basket:
        items: list[str]

    def on_placed(event: Placed) -> None:
        basket = Basket(["apple"])
        bus.bus.dispatch(basket, [TransportNamesStamp("queue")])
        basket.items.append("worm")

    bus = messenger(on_placed, Billed="queue")
    Basket.__qualname__ = "Basket"
    bus.bus.dispatch(Placed("o-1"))

    assert [each.body for each in sent(bus)] == [b'{"items":["apple"]}']


def test_a_task_that_outlives_its_handler_sends_at_once():
    go, done = threading.Event(), threading.Event()

    async def late() -> None:
        await asyncio.to_thread(go.wait, 5)
        await bus.bus.dispatch_async(Billed("late"))
        done.set()

    async def on_placed(event: Placed) -> None:
        on_placed.task = asyncio.create_task(late())

    bus = messenger(on_placed, Billed="queue")
    bus.bus.dispatch(Placed("o-1"))
    assert sent(bus) == []
    go.set()

    assert done.wait(5)
    assert len(sent(bus)) == 1


def test_several_transports_each_get_the_message():
    bus = messenger(Placed=("queue", "audit"))

    envelope = bus.bus.dispatch(Placed("o-1"))

    assert [stamp.transport_name for stamp in envelope.all(SentStamp)] == ["queue", "audit"]
    assert len(sent(bus)) == len(sent(bus, "audit")) == 1


def test_when_one_of_several_fails_the_error_says_who_has_it(monkeypatch):
    bus = messenger(Placed=("broken", "queue"))
    monkeypatch.setattr(bus.transports["broken"].driver, "send", lambda batch: [SendRefused("no")] * len(batch))

    with pytest.raises(SendFailedError, match=r'"broken": SendRefused: no \(transports that have it: "queue"\)'):
        bus.bus.dispatch(Placed("o-1"))


def test_an_unknown_transport_in_a_stamp_is_named_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r'"qeue", which does not exist.*did you mean "queue"'):
        messenger(Placed="queue").bus.dispatch(Placed("o-1"), [TransportNamesStamp("qeue")])


def test_a_sync_transport_handles_on_the_spot_and_serves_from_transport():
    calls = []

    @handler(from_transport="sync")
    def only_sync(event: Placed, came: HandledBySyncTransportStamp) -> None:
        calls.append(came.transport_name)

    bus = messenger(only_sync, Placed=("sync", "queue"))
    envelope = bus.bus.dispatch(Placed("o-1"))

    assert calls == ["sync"]
    assert envelope.last(SentStamp) == SentStamp("queue")
    assert envelope.last(HandledStamp) is not None
    assert envelope.last(ReceivedStamp) is None


def test_dispatch_many_sends_one_batch_per_transport(monkeypatch):
    bus = messenger(Recorder(), Placed="queue")
    batches = []
    send = bus.transports["queue"].driver.send
    monkeypatch.setattr(bus.transports["queue"].driver, "send", lambda batch: batches.append(len(batch)) or send(batch))

    envelopes = bus.bus.dispatch_many([Placed(str(number)) for number in range(50)] + [Billed("here")])

    assert batches == [50]
    assert [each.message.id for each in envelopes] == [*(str(number) for number in range(50)), "here"]
    assert all(each.last(SentStamp) and not each.last(HeldStamp) for each in envelopes[:50])
    assert envelopes[50].last(HandledStamp)


def test_dispatch_many_names_every_message_that_failed_and_keeps_the_rest():
    @dataclass(frozen=True)
    class Unwritable:
        what: Any

    bus = messenger(Recorder(), Placed="queue")
    messages = [Placed("a"), Unwritable(object()), Placed("b")]

    with pytest.raises(DispatchManyError, match="1 of 3 messages were not dispatched") as caught:
        bus.bus.dispatch_many(messages, [TransportNamesStamp("queue")])

    assert {position: type(error) for position, error in caught.value.errors.items()} == {1: EncodingError}
    assert [each is None for each in caught.value.envelopes] == [False, True, False]
    assert [each.body for each in sent(bus)] == [b'{"id":"a"}', b'{"id":"b"}']


def test_dispatch_many_maps_each_refusal_to_its_message(monkeypatch):
    bus = messenger(Placed="queue")
    driver = bus.transports["queue"].driver
    send = driver.send

    def refuse_b(batch):
        return [SendRefused("b") if each.body == b'{"id":"b"}' else send([each])[0] for each in batch]

    monkeypatch.setattr(driver, "send", refuse_b)
    with pytest.raises(DispatchManyError) as caught:
        bus.bus.dispatch_many([Placed("a"), Placed("b"), Placed("c")])

    assert list(caught.value.errors) == [1]


left_behind: list[contextvars.Context] = []


def leaves_a_context_behind(envelope: Envelope, call_next: CallNext) -> Envelope:
    left_behind.append(contextvars.copy_context())
    return call_next(envelope)


def test_a_task_that_outlives_a_dispatch_many_sends_at_once():
    config = MessengerConfig(
        buses={"bus": BusConfig(middleware=(MiddlewareConfig(name=f"{__name__}:leaves_a_context_behind"),))},
        transports={"queue": TransportConfig(dsn="in-memory://")},
        routing={f"{__name__}.Placed": ("queue",)},
    )
    bus = Messenger(config)
    bus.bus.dispatch_many([Placed("1"), Placed("2")])

    envelope = left_behind.pop().run(bus.dispatch, Placed("3"))

    assert envelope.last(SentStamp) is not None
    assert len(sent(bus)) == 3


def test_dispatch_many_inside_a_handler_is_held_with_the_rest():
    def on_placed(event: Placed) -> None:
        bus.bus.dispatch_many([Billed("1"), Billed("2")])
        raise ValueError

    bus = messenger(on_placed, Billed="queue")
    with pytest.raises(HandlerFailedError):
        bus.bus.dispatch(Placed("o-1"))

    assert sent(bus) == []


def test_an_async_handler_runs_from_a_plain_dispatch_and_from_a_loop():
    threads = []

    async def on_placed(event: Placed) -> str:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())
        return "done"

    bus = messenger(on_placed).bus
    plain = bus.dispatch(Placed("o-1"))
    on_loop = asyncio.run(bus.dispatch_async(Placed("o-2")))

    assert plain.last(HandledStamp).result == on_loop.last(HandledStamp).result == "done"
    assert threads[1] is threading.current_thread()


def test_dispatch_async_runs_sync_handlers_and_sends_off_the_loop():
    threads = []

    def on_placed(event: Placed) -> None:
        threads.append(threading.current_thread())

    asyncio.run(messenger(on_placed).bus.dispatch_async(Placed("o-1")))

    assert threads != [threading.current_thread()]


def test_a_blocking_send_on_a_running_loop_warns_once(caplog):
    bus = messenger(Placed="queue").bus

    async def main() -> None:
        for _ in range(3):
            bus.dispatch(Placed("o-1"))

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())

    assert [record.getMessage() for record in caplog.records if "blocks the running event loop" in record.getMessage()]
    assert len(caplog.records) == 1


def test_a_query_returns_the_result_of_its_one_handler():
    def on_placed(event: Placed) -> int:
        return 42

    assert messenger(on_placed).handle(Placed("o-1")) == 42
    with pytest.raises(BusError, match="was handled 0 times"):
        messenger(on_placed, Placed="queue").handle(Placed("o-1"))
    with pytest.raises(BusError, match="was handled 2 times"):
        messenger(on_placed, Recorder()).handle(Placed("o-1"))


TRACE: list[str] = []


def outer(envelope, call_next):
    TRACE.append("message in")
    result = call_next(envelope)
    TRACE.append("message out")
    return result


class Around:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, call, call_next):
        TRACE.append(f"{self.name} in")
        result = call_next(call)
        TRACE.append(f"{self.name} out")
        return result


def test_own_middleware_stands_around_the_message_and_around_each_handler():
    TRACE.clear()
    config = MessengerConfig(
        buses={
            "main": BusConfig(
                middleware=(
                    MiddlewareConfig(name=f"{__name__}:outer"),
                    MiddlewareConfig(name=f"{__name__}.Around", positional=("a",)),
                    MiddlewareConfig(name=f"{__name__}:Around", arguments={"name": "b"}),
                )
            )
        }
    )

    Messenger(config, handlers=[Recorder()]).bus.dispatch(Placed("o-1"))

    assert TRACE == ["message in", "a in", "b in", "b out", "a out", "message out"]


def test_each_bus_has_its_own_handlers():
    calls = []

    @handler(bus="query.bus")
    def answer(event: Placed) -> None:
        calls.append("query")

    @handler(bus="command.bus")
    def obey(event: Placed) -> None:
        calls.append("command")

    config = MessengerConfig(buses={"command.bus": BusConfig(), "query.bus": BusConfig()}, default_bus="command.bus")
    both = Messenger(config, handlers=[answer, obey])
    both.bus.dispatch(Placed("o-1"))
    both.buses["query.bus"].dispatch(Placed("o-1"))

    assert calls == ["command", "query"]


@pytest.mark.parametrize("listed", [False, True])
def test_a_handler_that_returns_a_coroutine_has_failed_for_nobody_awaits_it(listed: bool):
    async def work() -> None: ...

    def handle_one(event: Placed) -> Any:
        return work()

    def handle_list(events: list[Placed]) -> Any:
        return work()

    messenger = Messenger(handlers=[handle_list if listed else handle_one])

    with pytest.raises(HandlerFailedError, match="nobody awaits") as raised:
        messenger.dispatch(Placed("1"))
    (cause,) = raised.value.errors.values()
    assert isinstance(cause, UnrecoverableError)


def forgets_the_envelope(envelope: Envelope, call_next: CallNext) -> Envelope:
    call_next(envelope)
    return None  # type: ignore[return-value]


async def is_asynchronous(envelope: Envelope, call_next: CallNext) -> Envelope:
    return call_next(envelope)


@pytest.mark.parametrize("middleware", ["forgets_the_envelope", "is_asynchronous"])
def test_a_message_whose_middleware_loses_the_envelope_is_given_up_and_not_handled_again(middleware: str):
    record = Recorder()
    config = MessengerConfig(
        buses={"bus": BusConfig(middleware=(MiddlewareConfig(name=f"{__name__}:{middleware}"),))},
        transports={name: TransportConfig(dsn="in-memory://") for name in ("queue", "failed")},
        failure_transport="failed",
    )
    with Messenger(config, handlers=[record]) as messenger:
        messenger.transport("queue").send(Envelope(Placed("1")))
        for _ in range(2):
            messenger.worker(["queue"], WorkerOptions(stop_when_empty=True)).run()

        assert len(record.envelopes) == (middleware == "forgets_the_envelope")
        assert [each.counts.ready for each in messenger.stats()] == [0, 1]
        with pytest.raises(UnrecoverableError, match="instead of the envelope"):
            messenger.dispatch(Placed("2"))


@pytest.mark.parametrize("stamps", [DelayStamp(5), [DelayStamp], ["5s"]])
def test_what_is_no_stamp_is_refused_and_not_carried_along(stamps: Any):
    messenger = Messenger()

    with pytest.raises(TypeError, match=r"[Ss]tamps"):
        messenger.dispatch(Placed("1"), stamps)


def test_every_mistake_of_a_configuration_is_named_at_once():
    @handler(bus="evnt.bus", from_transport="asnyc")
    def lost(event: Placed) -> None: ...

    config = MessengerConfig(
        buses={"event.bus": BusConfig(middleware=(MiddlewareConfig(name="deduplicat"),))},
        transports={"async": TransportConfig(dsn="in-memory://")},
    )
    with pytest.raises(ConfigurationError) as caught:
        Messenger(config, handlers=[lost])

    assert len(caught.value.problems) == 3
    assert 'did you mean "event.bus"?' in str(caught.value)
    assert 'did you mean "async"?' in str(caught.value)
    assert 'did you mean "deduplicate"?' in str(caught.value)


@pytest.mark.parametrize("kind", ["sync", "beside an async handler"])
def test_a_child_that_a_handler_forked_sends_nothing_of_its_parents(kind, tmp_path):
    pids: list[int] = []

    def forking(event: Placed) -> None:
        bus.bus.dispatch(Billed(event.id))
        pids.append(os.fork())

    async def beside(event: Placed) -> None: ...

    handlers = [forking] if kind == "sync" else [forking, beside]
    config = MessengerConfig(
        transports={
            "queue": TransportConfig(dsn=f"sqlite:///{tmp_path}/bus.db"),
            "in": TransportConfig(dsn="in-memory://"),
        },
        routing={f"{__name__}.Billed": ("queue",)},
    )
    bus = Messenger(config, handlers=handlers)
    received = Envelope(Placed("o-1"), (ReceivedStamp("in"),))
    if kind == "sync":
        bus.bus.dispatch(received)
    else:
        asyncio.run(bus.bus.dispatch_async(received))

    _, status = os.waitpid(pids[0], 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert bus.transports["queue"].counts().ready == 1
    bus.close()


@pytest.mark.parametrize("kind", ["sync", "beside an async handler"])
def test_what_a_forked_child_of_a_handler_dispatches_is_sent_at_once(kind, tmp_path):
    def forking(event: Placed) -> None:
        pid = os.fork()
        if pid == 0:
            sent = bus.bus.dispatch(Billed(event.id)).last(SentStamp)
            os._exit(0 if sent is not None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    async def beside(event: Placed) -> None: ...

    config = MessengerConfig(
        transports={"queue": TransportConfig(dsn=f"sqlite:///{tmp_path}/bus.db")},
        routing={f"{__name__}.Billed": ("queue",)},
    )
    bus = Messenger(config, handlers=[forking] if kind == "sync" else [forking, beside])

    bus.dispatch(Placed("o-1")) if kind == "sync" else asyncio.run(bus.bus.dispatch_async(Placed("o-1")))

    assert bus.transports["queue"].counts().ready == 1
    bus.close()


def test_a_transport_that_cannot_be_closed_keeps_no_other_from_it(monkeypatch):
    bus = Messenger(MessengerConfig(transports={name: TransportConfig(dsn="in-memory://") for name in ("a", "b", "c")}))
    closed: list[str] = []

    def close(name: str) -> None:
        closed.append(name)
        if name == "b":
            raise ConnectionLostError("gone")

    for name, transport in bus.transports.items():
        monkeypatch.setattr(transport, "close", functools.partial(close, name))

    with pytest.raises(ConnectionLostError):
        bus.close()
    assert sorted(closed) == ["a", "b", "c"]


class BrokenStrategy:
    def should_retry(self, attempt: int) -> bool:
        raise LookupError("no such table of delays")

    def get_delay(self, attempt: int) -> int:
        return 0


def test_a_retry_strategy_that_fails_hides_neither_the_error_nor_who_succeeded():
    succeeding, failing = Recorder(), Recorder()
    failing.error = ValueError("not now")

    def succeed(event: Placed, envelope: Envelope) -> None:
        succeeding(event, envelope)

    def fail(event: Placed, envelope: Envelope) -> None:
        failing(event, envelope)

    config = MessengerConfig(
        transports={
            "queue": TransportConfig(dsn="in-memory://", retry_service=f"{__name__}:BrokenStrategy"),
            "failed": TransportConfig(dsn="in-memory://"),
        },
        failure_transport="failed",
        routing={f"{__name__}.Placed": ("queue",)},
    )
    with Messenger(config, handlers=[succeed, fail]) as messenger:
        messenger.dispatch(Placed("1"))
        messenger.worker(["queue"], WorkerOptions(stop_when_empty=True)).run()
        (given_up,) = messenger.failed().list()
        handled = given_up.envelope.last(HandledStamp)

    assert given_up.errors[-1].exception_message == "not now"
    assert handled is not None
    assert handled.handler_name.endswith("succeed")
