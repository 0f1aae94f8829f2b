from __future__ import annotations

import asyncio
import contextvars
import logging
import threading

import pytest

from bus import aio
from bus.envelope import Envelope
from bus.events import Event, MessageReceived, MessageSettled, WorkerIdle, WorkerStarted, WorkerStopped
from bus.stamps import ConsumedByWorkerStamp, PartitionKeyStamp, ReceivedStamp
from bus.transports.base import Outgoing

DEADLINE = 20.0  # seconds


def test_messages_are_handled_in_the_order_of_their_arrival_and_acknowledged(rig):
    names = [str(number) for number in range(250)]
    rig.send(*names)

    rig.run_until_empty()

    assert rig.handled == names
    assert rig.left == []
    assert len(rig.transport.driver.acknowledged) == 250


def test_with_a_concurrency_of_1_the_thread_that_runs_the_worker_handles(rig):
    threads = []
    rig.handle = lambda envelope: threads.append(threading.current_thread())
    rig.send("a")

    rig.run_until_empty()

    assert threads == [threading.current_thread()]


def test_with_a_concurrency_of_4_four_messages_are_handled_at_once(rig):
    together = threading.Barrier(4)
    rig.handle = lambda envelope: together.wait(DEADLINE)
    rig.send(*"abcdefgh")

    rig.run_until_empty(concurrency=4)

    assert sorted(rig.handled) == list("abcdefgh")


def test_no_more_are_handled_at_once_than_the_concurrency(rig):
    inside, most, lock = [0], [0], threading.Lock()

    def handle(envelope: Envelope) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        threading.Event().wait(0.001)
        with lock:
            inside[0] -= 1

    rig.handle = handle
    rig.send(*(str(number) for number in range(200)))

    rig.run_until_empty(concurrency=3)

    assert most[0] == 3


def test_messages_of_one_key_are_handled_one_after_the_other(rig):
    inside = set()

    def handle(envelope: Envelope) -> None:
        key = envelope.last(PartitionKeyStamp).key
        assert key not in inside
        inside.add(key)
        threading.Event().wait(0.0005)
        inside.remove(key)

    rig.handle = handle
    for number in range(30):
        for key in "abc":
            rig.send(f"{key}{number}", key=key)

    rig.run_until_empty(concurrency=6)

    assert [[int(name[1:]) for name in rig.handled if name[0] == key] for key in "abc"] == [list(range(30))] * 3
    assert rig.transport.driver.rejected == []


def test_a_slow_key_does_not_hold_back_the_others(rig, running, eventually):
    go_on = threading.Event()
    rig.handle = lambda envelope: go_on.wait(DEADLINE) if envelope.message.name == "slow" else None
    rig.send("slow", "behind", key="a")
    rig.send("other", key="b")

    with running(rig.worker(concurrency=2)):
        eventually(lambda: rig.handled == ["other"])
        go_on.set()
        eventually(lambda: rig.handled == ["other", "slow", "behind"])


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_a_handler_sets_in_a_context_variable_ends_with_its_message(rig, concurrency):
    mark = contextvars.ContextVar("mark", default="clean")
    seen = []

    def handle(envelope: Envelope) -> None:
        seen.append(mark.get())
        mark.set("dirty")

    mark.set("of the caller")
    rig.handle = handle
    rig.send(*"abc")

    rig.run_until_empty(concurrency=concurrency)

    assert seen == ["of the caller"] * 3


def test_messages_of_the_first_receiver_are_handled_first(make_rig):
    rig = make_rig("high", "low")
    rig.send("l1", "l2", to="low")
    rig.send("h1", "h2", to="high")

    rig.run_until_empty()

    assert rig.handled == ["h1", "h2", "l1", "l2"]


def test_a_message_of_the_first_receiver_overtakes_those_of_the_second_that_are_already_fetched(make_rig):
    rig = make_rig("high", "low")
    rig.handle = lambda envelope: rig.send("h", to="high") if envelope.message.name == "l5" else None
    rig.send(*(f"l{number}" for number in range(20)), to="low")

    rig.run_until_empty()

    assert rig.handled.index("h") == rig.handled.index("l5") + 1


def test_a_flooded_first_receiver_does_not_keep_the_worker_from_the_second_once_it_is_empty(make_rig):
    rig = make_rig("high", "low")
    rig.send("l", to="low")
    rig.send(*(f"h{number}" for number in range(500)), to="high")

    rig.run_until_empty(concurrency=2)

    assert set(rig.handled) == {"l", *(f"h{number}" for number in range(500))}


def test_an_async_message_runs_on_the_loop_of_the_process(rig):
    threads = []
    rig.handle = lambda envelope: threads.append((threading.current_thread().name, aio.in_greenlet()))
    rig.send("a")

    rig.worker(is_async=True, stop_when_empty=True).run()

    assert threads == [("bus-loop", True)]
    assert rig.left == []


def test_async_messages_wait_at_the_same_time(rig):
    inside, together = [0], asyncio.Event()

    async def handler() -> None:
        inside[0] += 1
        if inside[0] == 5:
            together.set()
        await asyncio.wait_for(together.wait(), DEADLINE)

    rig.handle = lambda envelope: aio.wait(handler())
    rig.send(*"abcde")

    rig.worker(is_async=True, concurrency=5, stop_when_empty=True).run()

    assert sorted(rig.handled) == list("abcde")
    assert rig.left == []


def test_no_more_async_messages_run_at_once_than_the_concurrency(rig):
    inside, most = [0], [0]

    async def handler() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        await asyncio.sleep(0.001)
        inside[0] -= 1

    rig.handle = lambda envelope: aio.wait(handler())
    rig.send(*(str(number) for number in range(60)))

    rig.worker(is_async=True, concurrency=3, stop_when_empty=True).run()

    assert (most[0], len(rig.handled), rig.left) == (3, 60, [])


@pytest.mark.parametrize("mode", [{}, {"concurrency": 3}, {"concurrency": 3, "is_async": True}], ids=str)
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), RuntimeError("x")],
    ids=repr,
)
def test_whatever_a_handler_raises_the_worker_goes_on(rig, error, mode):
    def handle(envelope: Envelope) -> None:
        if envelope.message.name == "bad":
            raise error

    rig.handle = handle
    rig.send("bad", "good")

    rig.run_until_empty(**mode)

    assert rig.handled == ["good"]
    assert [each.claim.transport_id for each in rig.transport.driver.rejected] == [1]


def test_the_stack_gets_the_message_with_its_receiver_and_the_worker_on_it(rig):
    seen: list[Envelope] = []
    rig.handle = seen.append
    rig.send("a")

    rig.run_until_empty()

    assert seen[0].last(ReceivedStamp) == ReceivedStamp("async")
    assert seen[0].last(ConsumedByWorkerStamp) is not None


def test_a_message_that_was_withdrawn_before_it_began_is_skipped(rig):
    claims = []

    def handle(envelope: Envelope) -> None:
        for each in claims:
            each.withdraw()

    rig.handle = handle
    fetch = rig.transport.driver.get
    rig.transport.driver.get = lambda limit: [claims.append(each.claim) or each for each in fetch(limit)]
    rig.send("a", "b", "c")

    rig.run_until_empty(fetch_size=2)

    # The window opens with the first message; "b" and "c" are fetched together, and "b" takes "c" away.
    assert rig.handled == ["a", "b"]


def test_what_cannot_be_decoded_never_reaches_the_stack(rig):
    seen = []
    rig.handle = lambda envelope: seen.append(type(envelope.message).__name__)
    rig.transport.send_all([Outgoing("id-1", b"\xff not json", {"type": "test.worker.job"})])
    rig.send("good")

    rig.run_until_empty()

    assert seen == ["Job"]


def test_a_worker_tells_what_happens(rig, running, eventually):
    told: list[Event] = []
    for kind in (WorkerStarted, MessageReceived, MessageSettled, WorkerIdle, WorkerStopped):
        rig.events.on(kind, told.append)
    rig.send("a")

    with running(rig.worker()):
        eventually(lambda: any(isinstance(each, WorkerIdle) for each in told))

    kinds = [type(each).__name__ for each in told if not isinstance(each, WorkerIdle)]
    assert kinds == ["WorkerStarted", "MessageReceived", "MessageSettled", "WorkerStopped"]
    assert told[0] == WorkerStarted(("async",))


def test_the_log_names_receivers_and_the_reason_to_stop(rig, caplog):
    worker = rig.worker()
    worker.stop("a person said so")

    with caplog.at_level(logging.INFO, "bus.worker"):
        worker.run()

    assert caplog.messages == ["Worker started: receivers async", "Worker stopped: a person said so"]


def test_a_message_whose_outcome_cannot_be_carried_out_comes_back(rig, caplog, monkeypatch):
    def broken(*arguments: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(rig.settler, "conclude", broken)
    rig.send("a")

    rig.run_until_empty()

    assert rig.left == ["a"]
    assert rig.transport.counts().delayed == 1
    assert '"async" could not be begun or settled; it comes back in 1000 ms' in caplog.text
