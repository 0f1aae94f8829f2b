"""Workers that consume from RabbitMQ."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from bus import AmqpReceivedStamp, AmqpStamp, Envelope, PartitionKeyStamp, message
from tests.integration.amqp.conftest import MakesMessengers, consume_all, eventually, working


@message("test.amqp.note")
@dataclass(frozen=True)
class Note:
    text: str


def test_what_was_dispatched_is_handled_and_gone(make_messenger: MakesMessengers, plain: Any) -> None:
    handled: list[str] = []

    def handle(note: Note) -> None:
        handled.append(note.text)

    messenger = make_messenger(handle, **{"async": {}})
    messenger.bus.dispatch_many([Note(str(number)) for number in range(500)])

    with working(messenger):
        eventually(lambda: len(handled) == 500, "all should be handled")

    assert handled == [str(number) for number in range(500)]
    assert plain.queue_declare("async", passive=True).method.message_count == 0


def test_a_worker_stops_by_itself_only_when_the_queue_is_really_empty(make_messenger: MakesMessengers) -> None:
    handled: list[str] = []

    def handle(note: Note) -> None:
        handled.append(note.text)

    messenger = make_messenger(handle, **{"async": {}})
    messenger.bus.dispatch_many([Note(str(number)) for number in range(300)])

    consume_all(messenger)

    assert len(handled) == 300


def test_a_failing_message_is_retried_and_then_stored_in_the_failure_transport(
    make_messenger: MakesMessengers,
) -> None:
    counts: list[object] = []

    def handle(note: Note, stamp: AmqpReceivedStamp) -> None:
        counts.append((stamp.properties["headers"] or {}).get("x-retry-count"))  # type: ignore[union-attr, attr-defined]
        raise ValueError("no")

    messenger = make_messenger(handle, **{"async": {}})
    messenger.dispatch(Note("bad"))

    with working(messenger):
        eventually(lambda: len(list(messenger.failed().list())) == 1, "it should be in the failure transport")

    assert counts == [None, 1, 2]


def test_two_queues_on_one_exchange_each_get_a_copy_and_a_retry_goes_to_the_one_that_failed(
    make_messenger: MakesMessengers,
) -> None:
    handled: list[tuple[str, str]] = []

    def handle(note: Note, stamp: AmqpReceivedStamp) -> None:
        handled.append((stamp.queue, note.text))
        if stamp.queue == "mails" and len(handled) < 3:
            raise ValueError("once more")

    messenger = make_messenger(
        handle, **{"async": {"exchange": {"name": "events"}, "queues": {"mails": None, "bills": None}}}
    )
    messenger.dispatch(Note("x"))

    with working(messenger):
        eventually(lambda: len(handled) >= 3, "it should be handled, and once more where it failed")

    assert sorted(handled) == [("bills", "x"), ("mails", "x"), ("mails", "x")]


def test_a_routing_key_chooses_the_queue_and_the_handler_sees_where_it_came_from(
    make_messenger: MakesMessengers,
) -> None:
    seen: list[AmqpReceivedStamp] = []

    def handle(note: Note, stamp: AmqpReceivedStamp) -> None:
        seen.append(stamp)

    messenger = make_messenger(
        handle,
        **{
            "async": {
                "exchange": {"name": "orders", "type": "topic"},
                "queues": {"eu": {"binding_keys": ["order.eu.*"]}, "us": {"binding_keys": ["order.us.*"]}},
            }
        },
    )
    stamp = AmqpStamp("order.eu.fr", {"app_id": "shop", "headers": {"x-own": "v"}})
    messenger.dispatch(Note("x"), [stamp])

    with working(messenger):
        eventually(lambda: bool(seen), "it should be handled")

    assert [(each.queue, each.exchange, each.routing_key, each.redelivered) for each in seen] == [
        ("eu", "orders", "order.eu.fr", False)
    ]
    assert seen[0].properties["app_id"] == "shop"


def test_only_the_chosen_queues_are_read(make_messenger: MakesMessengers) -> None:
    seen: list[str] = []

    def handle(note: Note, stamp: AmqpReceivedStamp) -> None:
        seen.append(stamp.queue)

    messenger = make_messenger(handle, **{"async": {"queues": {"mails": None, "bills": None}}})
    messenger.bus.dispatch_many([Note(str(number)) for number in range(20)])

    consume_all(messenger, queues=("bills",))
    assert set(seen) == {"bills"}
    consume_all(messenger)

    assert sorted(seen) == ["bills"] * 20 + ["mails"] * 20


def test_concurrent_handlers_settle_in_any_order(make_messenger: MakesMessengers, plain: Any) -> None:
    handled: list[str] = []
    lock = threading.Lock()

    def handle(note: Note) -> None:
        if int(note.text) % 7 == 0:
            threading.Event().wait(0.01)
        with lock:
            handled.append(note.text)

    messenger = make_messenger(handle, **{"async": {}})
    messenger.bus.dispatch_many([Note(str(number)) for number in range(400)])

    with working(messenger, concurrency=4):
        eventually(lambda: len(handled) >= 400, "all should be handled")

    assert sorted(map(int, handled)) == list(range(400))
    assert plain.queue_declare("async", passive=True).method.message_count == 0


def test_keyed_messages_of_partitions_keep_their_order_over_two_workers(make_messenger: MakesMessengers) -> None:
    handled: dict[str, list[int]] = {}
    lock = threading.Lock()

    def handle(note: Note, envelope: Envelope) -> None:
        key = envelope.last(PartitionKeyStamp)
        assert key is not None
        with lock:
            handled.setdefault(key.key, []).append(int(note.text))

    messengers = [make_messenger(handle, **{"async": {"partitions": 4}}) for _ in range(2)]
    for number in range(60):
        messengers[0].dispatch(Note(str(number)), [PartitionKeyStamp(f"k{number % 6}")])

    with working(messengers[0], concurrency=2), working(messengers[1], concurrency=2):
        eventually(lambda: sum(map(len, handled.values())) >= 60, "all should be handled")

    assert handled == {f"k{each}": list(range(each, 60, 6)) for each in range(6)}
