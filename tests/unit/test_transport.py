"""One Transport over any driver: sizes, undecodable and foreign messages, original bytes, capabilities."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from bus import aio, headers
from bus.clock import SystemClock
from bus.envelope import Envelope
from bus.errors import (
    ConfigurationError,
    ConnectionLostError,
    DecodingError,
    EncodingError,
    SendRefused,
    SendUnknown,
    TransportError,
)
from bus.messages import MessageTypes, UndecodableMessage
from bus.messages import message as wire_message
from bus.serializer import EncodedEnvelope, JsonSerializer
from bus.stamps import (
    BusNameStamp,
    ClaimStamp,
    DelayStamp,
    ErrorDetailsStamp,
    MessageIdStamp,
    OriginStamp,
    PartitionKeyStamp,
    PeekedStamp,
    PriorityStamp,
    ReceivedStamp,
    RedeliveryStamp,
    SentStamp,
    SqlReceivedStamp,
    Stamp,
    TransportMessageIdStamp,
    stamp,
)
from bus.transports.base import Claim, Delivery, Driver, Outgoing, Requeue, Sent, Settlement
from bus.transports.memory import MemoryDriver
from bus.transports.transport import Transport
from bus.transports.wrapping import HEADER_BUDGET, size_of, wrap


@wire_message("order.placed")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@stamp("note")
@dataclass(frozen=True, slots=True)
class NoteStamp(Stamp):
    text: str


class UnwritableStamp(Stamp):
    """It has no name on the wire."""


SERIALIZER = JsonSerializer(MessageTypes([OrderPlaced]), [NoteStamp])
ORDER = OrderPlaced("o-1")
BODY = b'{"order_id":"o-1"}'
HEADERS = {"type": "order.placed"}


class Outlet:
    """A driver with no capabilities: it hands out and takes what it is told."""

    def __init__(self, *deliveries: Delivery) -> None:
        self.deliveries = list(deliveries)
        self.sent: list[Outgoing] = []
        self.threads: list[int] = []
        self.answers: list[Sent | TransportError] = []
        self.settled: list[Settlement] = []
        self.closed = 0

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        self.threads.append(threading.get_ident())
        self.sent += batch
        return [self.answers.pop(0) if self.answers else Sent() for _ in batch]

    def get(self, limit: int) -> Sequence[Delivery]:
        taken, self.deliveries = self.deliveries[:limit], self.deliveries[limit:]
        return taken

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        self.settled += batch
        return ()

    def close(self) -> None:
        self.closed += 1


def delivery(
    body: bytes = BODY, fields: dict[str, str] | None = None, transport_id: str | int = 7, deliveries: int = 1
) -> Delivery:
    return Delivery(body, HEADERS if fields is None else fields, Claim(transport_id, deliveries, "orders"))


@pytest.fixture
def make() -> Iterator[Callable[..., Transport]]:
    made: list[Transport] = []

    def build(driver: Driver | None = None, name: str = "async", **options: object) -> Transport:
        serializer = options.pop("serializer", SERIALIZER)
        driver = driver or MemoryDriver(name, SystemClock())
        made.append(Transport(name, driver, serializer, **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for transport in made:
        transport.close()


Make = Callable[..., Transport]


def received(transport: Transport) -> Envelope:
    (envelope,) = transport.get(10)
    return envelope


def claim_of(envelope: Envelope) -> Claim:
    stamp = envelope.last(ClaimStamp)
    assert stamp is not None
    return stamp.claim


def settled(transport: Transport) -> Settlement:
    transport.flush()
    assert isinstance(transport.driver, Outlet)
    return transport.driver.settled[-1]


def requeued(transport: Transport) -> Outgoing:
    settlement = settled(transport)
    assert isinstance(settlement, Requeue)
    return settlement.outgoing


# --- sending ---


def test_what_is_sent_is_received_with_its_stamps_and_those_of_its_delivery(make: Make) -> None:
    transport = make()
    sent = transport.send(Envelope(ORDER, (MessageIdStamp("m-1"), BusNameStamp("events"))))
    envelope = received(transport)
    assert envelope.message == ORDER
    assert envelope.last(BusNameStamp) == BusNameStamp("events")
    assert envelope.last(ReceivedStamp) == ReceivedStamp("async")
    assert envelope.last(MessageIdStamp) == MessageIdStamp("m-1")
    assert envelope.last(TransportMessageIdStamp) == sent.last(TransportMessageIdStamp)
    claim_stamp = envelope.last(ClaimStamp)
    assert claim_stamp is not None
    assert claim_stamp.body == BODY
    assert claim_stamp.headers[headers.TYPE] == "order.placed"


def test_a_sent_envelope_says_where_it_is_and_under_which_id(make: Make) -> None:
    driver = Outlet()
    driver.answers = [Sent("1-0"), Sent()]
    transport = make(driver)
    sent = transport.send(Envelope(ORDER))
    assert sent.last(SentStamp) == SentStamp("async")
    assert sent.last(TransportMessageIdStamp) == TransportMessageIdStamp("1-0")
    assert transport.send(Envelope(ORDER)).last(TransportMessageIdStamp) is None


def test_a_message_without_an_id_gets_one_that_the_caller_sees(make: Make) -> None:
    driver = Outlet()
    sent = make(driver).send(Envelope(ORDER))
    identity = sent.last(MessageIdStamp)
    assert identity is not None
    assert driver.sent[0].message_id == identity.id == driver.sent[0].headers[headers.MESSAGE_ID]


def test_stamps_become_what_a_driver_needs_to_know(make: Make) -> None:
    stamps = (
        MessageIdStamp("m-1"),
        DelayStamp(100),
        DelayStamp(2500),
        RedeliveryStamp(2, datetime(2026, 1, 1, tzinfo=UTC)),
        PriorityStamp(7),
        PartitionKeyStamp("o-1"),
        OriginStamp("somewhere"),
    )
    outgoing = make().encode(Envelope(ORDER, stamps))
    assert (outgoing.message_id, outgoing.body) == ("m-1", BODY)
    assert (outgoing.delay_ms, outgoing.attempt, outgoing.priority, outgoing.partition_key) == (2500, 2, 7, "o-1")
    assert outgoing.origin is None
    assert outgoing.headers[headers.ORIGIN] == "somewhere"


def test_a_negative_delay_is_none(make: Make) -> None:
    assert make().encode(Envelope(ORDER, (DelayStamp(-5),))).delay_ms == 0


class Huge:
    """A serializer whose bodies are as large as it is told."""

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, envelope: Envelope, body: bytes | None = None) -> EncodedEnvelope:
        return EncodedEnvelope(body or b"x" * self.size, {"type": "huge"})

    def decode(self, encoded: EncodedEnvelope) -> Envelope:
        raise DecodingError("too large")

    def decode_raw(self, encoded: EncodedEnvelope, reason: str) -> Envelope:
        return Envelope(UndecodableMessage(encoded.body, encoded.headers, reason))


def test_a_body_that_is_too_large_is_refused_with_its_size_and_the_limit(make: Make) -> None:
    limit = 16 * 1024 * 1024
    assert len(make(serializer=Huge(limit)).encode(Envelope(ORDER)).body) == limit
    with pytest.raises(SendRefused, match=r'OrderPlaced" is not sent to "async".* 16777217 bytes, and 16777216'):
        make(serializer=Huge(limit + 1)).send(Envelope(ORDER))


def test_headers_that_are_too_large_are_refused_and_the_largest_is_named(make: Make) -> None:
    with pytest.raises(SendRefused, match=r'32768 are allowed; the largest is "X-Bus-Stamp-note"'):
        make().send(Envelope(ORDER, (NoteStamp("x" * 40_000),)))


def test_headers_are_measured_in_bytes(make: Make) -> None:
    class OneHeader(Huge):
        def encode(self, envelope: Envelope, body: bytes | None = None) -> EncodedEnvelope:
            return EncodedEnvelope(b"x", {"type": "\N{SNOWMAN}" * self.size})

    assert make(serializer=OneHeader(10_900)).encode(Envelope(ORDER))
    with pytest.raises(SendRefused):
        make(serializer=OneHeader(10_930)).encode(Envelope(ORDER))


def test_a_stamp_that_cannot_be_written_fails_the_send(make: Make) -> None:
    with pytest.raises(EncodingError, match="UnwritableStamp"):
        make().send(Envelope(ORDER, (UnwritableStamp(),)))


@pytest.mark.parametrize("error", [SendRefused("no"), SendUnknown("perhaps")])
def test_the_answer_of_the_broker_is_raised(make: Make, error: TransportError) -> None:
    driver = Outlet()
    driver.answers = [error]
    with pytest.raises(type(error)) as raised:
        make(driver).send(Envelope(ORDER))
    assert raised.value is error


def test_send_each_returns_every_answer_and_send_all_raises_the_first_error(make: Make) -> None:
    driver = Outlet()
    transport = make(driver)
    batch = [transport.encode(Envelope(ORDER)) for _ in range(3)]
    answers: list[Sent | TransportError] = [Sent(1), SendRefused("first"), SendUnknown("second")]
    driver.answers = list(answers)
    assert transport.send_each(batch) == answers
    driver.answers = list(answers)
    with pytest.raises(SendRefused, match="first"):
        transport.send_all(batch)
    transport.send_all(batch)


def test_a_send_that_blocks_an_event_loop_is_said_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    transport = make(Outlet())

    async def run() -> None:
        transport.send(Envelope(ORDER))
        transport.send(Envelope(ORDER))

    transport.send(Envelope(ORDER))
    assert not caplog.records
    asyncio.run(run())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert '"async" blocks the running event loop' in record.getMessage()
    assert "dispatch_async" in record.getMessage()


def test_a_send_in_a_greenlet_leaves_the_loop_alone(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    driver = Outlet()
    transport = make(driver)
    sent = asyncio.run(aio.run_in_greenlet(transport.send, Envelope(ORDER)))
    assert sent.last(SentStamp) is not None
    assert driver.threads != [threading.get_ident()]
    assert not caplog.records


# --- receiving ---


def test_what_cannot_be_decoded_comes_among_the_others_with_its_bytes(make: Make) -> None:
    bad = delivery(b"\xff\x00", {"type": "order.placed", "X-Bus-Message-Id": "m-2", "odd": "1"})
    transport = make(Outlet(delivery(), bad, delivery(b"{}", {"type": "os.system"}), delivery()))
    first, second, third, fourth = transport.get(10)
    assert first.message == fourth.message == ORDER
    assert isinstance(second.message, UndecodableMessage)
    assert (second.message.body, second.message.headers) == (bad.body, bad.headers)
    assert second.last(MessageIdStamp) == MessageIdStamp("m-2")
    assert claim_of(second) is bad.claim
    assert isinstance(third.message, UndecodableMessage)
    assert "os.system" in third.message.reason


@pytest.mark.parametrize("error", [SystemExit(3), ZeroDivisionError("bug"), RecursionError(), MemoryError()])
def test_a_serializer_that_raises_anything_loses_no_message(make: Make, error: BaseException) -> None:
    class Hostile(Huge):
        def decode(self, encoded: EncodedEnvelope) -> Envelope:
            raise error

    envelope = received(make(Outlet(delivery()), serializer=Hostile(1)))
    assert isinstance(envelope.message, UndecodableMessage)
    assert type(error).__name__ in envelope.message.reason


def test_ctrl_c_while_decoding_is_no_fault_of_the_message(make: Make) -> None:
    class Interrupted(Huge):
        def decode(self, encoded: EncodedEnvelope) -> Envelope:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(Outlet(delivery()), serializer=Interrupted(1)).get(1)


def test_a_message_that_was_delivered_too_often_is_not_decoded(make: Make) -> None:
    class Deadly(Huge):
        def decode(self, encoded: EncodedEnvelope) -> Envelope:
            raise AssertionError("it was decoded")

    transport = make(Outlet(delivery(deliveries=4)), serializer=Deadly(1), max_deliveries=3)
    envelope = received(transport)
    assert isinstance(envelope.message, UndecodableMessage)
    assert envelope.message.body == BODY
    assert "delivered 4 times without ever being settled" in envelope.message.reason


def test_a_message_is_decoded_as_long_as_it_was_not_delivered_too_often(make: Make) -> None:
    assert received(make(Outlet(delivery(deliveries=3)), max_deliveries=3)).message == ORDER


def test_the_drivers_own_stamp_is_on_the_envelope(make: Make) -> None:
    native = SqlReceivedStamp(7, "messenger_messages", "default")
    envelope = received(make(Outlet(Delivery(BODY, HEADERS, Claim(7, 1, "default", native)))))
    assert envelope.last(SqlReceivedStamp) is native


def test_a_foreign_message_gets_the_same_id_at_each_delivery(make: Make) -> None:
    def identity(name: str, each: Delivery) -> str:
        stamp = received(make(Outlet(each), name)).last(MessageIdStamp)
        assert stamp is not None
        return stamp.id

    first = identity("async", delivery())
    assert identity("async", delivery(deliveries=2)) == first
    assert len(first) == 36
    others = {
        identity("async", delivery(transport_id=8)),
        identity("other", delivery()),
        # A table that was emptied gives its ids again.
        identity("async", delivery(b'{"order_id":"o-2"}')),
    }
    assert len(others | {first}) == 4


def test_a_foreign_message_has_the_same_id_when_it_is_looked_at(make: Make) -> None:
    driver = MemoryDriver("async", SystemClock())
    transport = make(driver)
    driver.send([Outgoing("", BODY, HEADERS)])
    (peeked,) = transport.peek(10) or []
    assert peeked.last(MessageIdStamp) == received(transport).last(MessageIdStamp)


def test_an_undecodable_foreign_message_has_an_id_too(make: Make) -> None:
    assert received(make(Outlet(delivery(b"?")))).last(MessageIdStamp) is not None


def test_queues_are_asked_for_where_the_driver_has_them(make: Make) -> None:
    class Queues(Outlet):
        def get_from(self, queues: Sequence[str], limit: int) -> Sequence[Delivery]:
            return [delivery(transport_id=queue) for queue in queues[:limit]]

    envelopes = make(Queues()).get(5, ("high", "low"))
    assert [claim_of(each).transport_id for each in envelopes] == ["high", "low"]
    with pytest.raises(ConfigurationError, match='"async" has no queues'):
        make(Outlet()).get(5, ("high",))


# --- settling ---


def test_a_settlement_carries_the_claim_of_its_message(make: Make) -> None:
    envelopes = [delivery(transport_id=number) for number in range(3)]
    transport = make(Outlet(*envelopes))
    acked, discarded, parked = transport.get(3)
    transport.ack(acked)
    transport.discard(discarded)
    transport.park(parked)
    assert transport.unsettled == 3
    transport.flush()
    assert transport.unsettled == 0
    assert isinstance(transport.driver, Outlet)
    assert [type(each).__name__ for each in transport.driver.settled] == ["Ack", "Discard", "Park"]
    assert [each.claim for each in transport.driver.settled] == [each.claim for each in envelopes]


def test_the_window_says_when_settlements_leave(make: Make) -> None:
    driver = Outlet(*(delivery(transport_id=number) for number in range(4)))
    transport = make(driver)
    transport.window = 4
    first, second, _, _ = transport.get(4)
    transport.ack(first)
    assert not driver.settled
    transport.ack(second)
    assert len(driver.settled) == 2


def test_only_a_received_message_can_be_settled(make: Make) -> None:
    with pytest.raises(ValueError, match="received"):
        make().ack(Envelope(ORDER))


def test_a_requeue_keeps_the_original_bytes_and_goes_to_the_origin(make: Make) -> None:
    body = b'{ "order_id" : "o-1", "from a newer version": [1.50] }'
    fields = {"type": "order.placed", "X-Foreign": "kept", headers.MESSAGE_ID: "m-1"}
    transport = make(Outlet(delivery(body, fields)))
    envelope = received(transport)
    transport.requeue(envelope.with_(DelayStamp(60_000), RedeliveryStamp(3)), 500)
    outgoing = requeued(transport)
    assert outgoing.body == body
    assert outgoing.headers["X-Foreign"] == "kept"
    assert (outgoing.message_id, outgoing.origin, outgoing.delay_ms, outgoing.attempt) == ("m-1", "orders", 500, 3)


def test_a_delay_of_an_earlier_send_does_not_delay_again(make: Make) -> None:
    transport = make()
    transport.send(Envelope(ORDER, (DelayStamp(1),)))
    while not (envelopes := transport.get(1)):
        pass
    assert envelopes[0].last(DelayStamp) == DelayStamp(1)
    transport.requeue(envelopes[0], 0)
    transport.flush()
    assert transport.get(1)


def test_an_object_that_a_handler_changed_does_not_change_what_is_tried_again(make: Make) -> None:
    @wire_message("basket")
    @dataclass
    class Basket:
        items: list[str]

    serializer = JsonSerializer(MessageTypes([Basket]))
    transport = make(Outlet(delivery(b'{"items":["a"]}', {"type": "basket"})), serializer=serializer)
    envelope = received(transport)
    envelope.message.items.append("b")
    transport.requeue(envelope, 0)
    assert requeued(transport).body == b'{"items":["a"]}'


def test_a_stamp_that_cannot_be_written_does_not_lose_the_message(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    transport = make(Outlet(delivery()))
    envelope = received(transport)
    transport.requeue(envelope.with_(UnwritableStamp(), RedeliveryStamp(1), NoteStamp("n")), 0)
    outgoing = requeued(transport)
    assert outgoing.body == BODY
    again = SERIALIZER.decode(EncodedEnvelope(outgoing.body, outgoing.headers))
    assert again.message == ORDER
    assert again.last(NoteStamp) == NoteStamp("n")
    assert again.last(RedeliveryStamp) is not None
    assert "UnwritableStamp" in caplog.text


def test_a_serializer_that_can_write_nothing_keeps_bytes_and_headers(make: Make) -> None:
    class Broken(Huge):
        def decode(self, encoded: EncodedEnvelope) -> Envelope:
            return Envelope(ORDER)

        def encode(self, envelope: Envelope, body: bytes | None = None) -> EncodedEnvelope:
            raise ZeroDivisionError("bug")

    transport = make(Outlet(delivery()), serializer=Broken(1))
    transport.requeue(received(transport), 0)
    outgoing = requeued(transport)
    assert (outgoing.body, outgoing.headers) == (BODY, HEADERS)


def test_undecodable_bytes_are_requeued_as_they_came(make: Make) -> None:
    fields = {"type": "unknown", "X-Odd": "\u2603", headers.MESSAGE_ID: "m-1"}
    transport = make(Outlet(delivery(b"\x00\xff", fields)))
    transport.requeue(received(transport).with_(RedeliveryStamp(1)), 0)
    outgoing = requeued(transport)
    assert outgoing.body == b"\x00\xff"
    assert {name: outgoing.headers[name] for name in fields} == fields


# --- the header budget ---


def error(number: int, trace: int = 1000, text: int = 10) -> ErrorDetailsStamp:
    flat = {"message": "m", "class": "C", "file": "f", "line": 1, "status_text": "s", "trace_as_string": "t" * trace}
    return ErrorDetailsStamp("app.Declined", number, f"{number} " + "e" * text, flat)


def history_after_requeue(transport: Transport, *errors: ErrorDetailsStamp) -> tuple[ErrorDetailsStamp, ...]:
    transport.requeue(received(transport).with_(*errors), 0)
    outgoing = requeued(transport)
    assert size_of(outgoing.headers) <= HEADER_BUDGET
    return SERIALIZER.decode(EncodedEnvelope(outgoing.body, outgoing.headers)).all(ErrorDetailsStamp)


def test_an_error_history_that_fits_is_kept_whole(make: Make) -> None:
    history = tuple(error(number) for number in range(10))
    assert history_after_requeue(make(Outlet(delivery())), *history) == history


def test_the_oldest_traces_go_first_when_the_headers_become_too_large(make: Make) -> None:
    kept = history_after_requeue(make(Outlet(delivery())), *(error(number, trace=5000) for number in range(10)))
    assert [each.exception_code for each in kept] == list(range(10))
    has_trace = [each.flatten_exception is not None for each in kept]
    assert has_trace == sorted(has_trace)
    assert has_trace[-1]
    assert not has_trace[0]


def test_the_last_trace_goes_before_an_error_does(make: Make) -> None:
    history = [error(number, trace=100, text=2500) for number in range(9)] + [error(9, trace=30_000)]
    kept = history_after_requeue(make(Outlet(delivery())), *history)
    assert len(kept) == 10
    assert not any(each.flatten_exception for each in kept)


def test_older_errors_go_last_and_the_last_error_stays(make: Make) -> None:
    kept = history_after_requeue(make(Outlet(delivery())), *(error(number, text=8000) for number in range(10)))
    codes = [each.exception_code for each in kept]
    assert codes == list(range(10))[-len(codes) :]
    assert 2 <= len(codes) <= 4


def test_headers_that_are_still_too_large_move_into_the_body_and_back(make: Make) -> None:
    fields = {**HEADERS, "X-Foreign": "f" * 40_000, headers.MESSAGE_ID: "m-1", headers.PARTITION_KEY: "o-1"}
    transport = make(Outlet(delivery(fields=fields)))
    transport.requeue(received(transport).with_(error(1), RedeliveryStamp(1)), 250)
    outgoing = requeued(transport)
    assert size_of(outgoing.headers) <= HEADER_BUDGET
    assert outgoing.headers[headers.MESSAGE_ID] == outgoing.message_id == "m-1"
    assert (outgoing.delay_ms, outgoing.attempt, outgoing.partition_key) == (250, 1, "o-1")

    store = make(name="failed")
    store.send_all([dataclasses.replace(outgoing, delay_ms=0)])
    (peeked,) = store.peek(1) or []
    for envelope in (peeked, received(store)):
        assert envelope.message == ORDER
        assert envelope.last(ErrorDetailsStamp) is not None
        assert envelope.last(MessageIdStamp) == MessageIdStamp("m-1")
    stood = peeked.last(PeekedStamp)
    assert stood is not None
    assert stood.body == BODY
    assert stood.headers["X-Foreign"] == "f" * 40_000


def test_an_unwrapped_message_is_settled_with_its_own_bytes(make: Make) -> None:
    wrapped = wrap(EncodedEnvelope(BODY, HEADERS))
    transport = make(Outlet(delivery(wrapped.body, dict(wrapped.headers))))
    transport.requeue(received(transport), 0)
    outgoing = requeued(transport)
    assert outgoing.body == BODY
    assert headers.WRAPPED not in outgoing.headers


@pytest.mark.parametrize(
    "body", [b"", b"no line feed", b"{\n", b"[]\n{}", b'{"type": 1}\n{}', b"[" * 100_000 + b"\n", b"\xff\n"]
)
def test_a_broken_wrapper_is_an_undecodable_message(make: Make, body: bytes) -> None:
    envelope = received(make(Outlet(delivery(body, {**HEADERS, headers.WRAPPED: "1"}))))
    assert isinstance(envelope.message, UndecodableMessage)
    assert envelope.message.body == body


# --- from one transport to another ---


def test_a_message_keeps_its_bytes_on_the_way_to_another_transport(make: Make) -> None:
    body = b'{"order_id" : "o-1"}'
    source = make(Outlet(delivery(body)))
    outgoing = make(name="failed").encode_received(received(source).with_(DelayStamp(5000)), source, origin="orders")
    assert outgoing.body == body
    assert (outgoing.origin, outgoing.delay_ms) == ("orders", 0)


class Reversing:
    """Another format: the JSON backwards."""

    def encode(self, envelope: Envelope, body: bytes | None = None) -> EncodedEnvelope:
        encoded = SERIALIZER.encode(envelope, body)
        return encoded if body is not None else EncodedEnvelope(encoded.body[::-1], encoded.headers)

    def decode(self, encoded: EncodedEnvelope) -> Envelope:
        return SERIALIZER.decode(EncodedEnvelope(encoded.body[::-1], encoded.headers))

    def decode_raw(self, encoded: EncodedEnvelope, reason: str) -> Envelope:
        return SERIALIZER.decode_raw(encoded, reason)


def test_between_two_formats_a_message_is_translated_from_its_bytes(make: Make) -> None:
    source = make(Outlet(delivery(BODY[::-1])), serializer=Reversing())
    envelope = received(source)
    object.__setattr__(envelope.message, "order_id", "changed by a handler")
    outgoing = make(name="failed").encode_received(envelope, source)
    assert json.loads(outgoing.body) == {"order_id": "o-1"}


def test_between_two_formats_undecodable_bytes_stay_as_they_are(make: Make) -> None:
    source = make(Outlet(delivery(b"?!")), serializer=Reversing())
    assert make(name="failed").encode_received(received(source), source).body == b"?!"


# --- capabilities ---


def test_a_driver_without_capabilities_says_so_politely(make: Make) -> None:
    transport = make(Outlet())
    assert transport.wakes(lambda: None) is False
    assert transport.set_up() is False
    assert transport.check() is None
    assert transport.counts() is None
    assert transport.peek(10) is None
    assert transport.take(1) is None


def test_a_driver_that_can_do_more_is_asked(make: Make) -> None:
    class SettingUp(MemoryDriver):
        made = False

        def set_up(self) -> None:
            self.made = True

        def check(self) -> Sequence[str]:
            return () if self.made else ('The table "orders" is missing.',)

    transport = make(SettingUp("orders", SystemClock()))
    woken = threading.Event()
    assert transport.wakes(woken.set) is True
    assert transport.check() == ['The table "orders" is missing.']
    assert transport.set_up() is True
    assert transport.check() == []
    transport.send(Envelope(ORDER))
    assert woken.wait(10)
    counts = transport.counts()
    assert counts is not None
    assert counts.ready == 1
    (peeked,) = transport.peek(10) or []
    place = peeked.last(TransportMessageIdStamp)
    assert place is not None
    taken = transport.take(place.id)
    assert taken is not None
    assert taken.message == ORDER
    assert transport.take(place.id) is None


def test_a_message_that_a_person_takes_is_decoded_however_often_it_was_delivered(make: Make) -> None:
    class Taking(MemoryDriver):
        def take(self, transport_id: str | int) -> Delivery | None:
            return delivery(deliveries=9)

    taken = make(Taking("orders", SystemClock())).take(1)
    assert taken is not None
    assert taken.message == ORDER


# --- closing ---


def test_close_settles_first_and_may_be_called_again(make: Make) -> None:
    class Closing(Outlet):
        settled_at_close = -1

        def close(self) -> None:
            super().close()
            self.settled_at_close = len(self.settled)

    driver = Closing(delivery())
    transport = make(driver)
    transport.ack(received(transport))
    transport.close()
    assert driver.settled_at_close == 1
    transport.close()
    assert len(driver.settled) == 1


def test_a_transport_that_was_closed_can_be_consumed_again(make: Make) -> None:
    driver = Outlet(delivery())
    transport = make(driver)
    transport.close()
    transport.ack(received(transport))
    transport.flush()
    assert len(driver.settled) == 1


def test_an_unreachable_server_reaches_the_worker(make: Make) -> None:
    class Down(Outlet):
        def get(self, limit: int) -> Sequence[Delivery]:
            raise ConnectionLostError("down")

    with pytest.raises(ConnectionLostError):
        make(Down()).get(1)
