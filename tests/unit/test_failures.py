from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from bus.clock import SystemClock
from bus.envelope import Envelope
from bus.errors import BusError, ConfigurationError, ConnectionLostError, SendRefused, SendUnknown
from bus.events import Events
from bus.failures import FailedMessages, Outcome
from bus.messages import MessageTypes, message
from bus.serializer import EncodedEnvelope, JsonSerializer
from bus.settlement import Settler
from bus.stamps import (
    ClaimStamp,
    DelayStamp,
    ErrorDetailsStamp,
    HandledStamp,
    MessageIdStamp,
    OriginStamp,
    ParkDecisionStamp,
    PostponedStamp,
    RedeliveryStamp,
    SentToFailureTransportStamp,
    Stamp,
)
from bus.testing.failpoints import armed
from bus.transports.base import Delivery, Outgoing, Sent, Settlement
from bus.transports.memory import MemoryDriver
from bus.transports.transport import Transport

FAILED_AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@message("shop.order_placed", aliases=["OrderPlaced"])
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@message("shop.order_cancelled")
@dataclass(frozen=True)
class OrderCancelled:
    order_id: str


class Shop:
    """Two transports whose messages fail into a third one."""

    def __init__(self, types: Sequence[type] = (OrderPlaced, OrderCancelled)) -> None:
        self.types = MessageTypes(types)
        serializer = JsonSerializer(self.types)
        self.drivers = {name: MemoryDriver(name, SystemClock()) for name in ("async", "slow", "failed")}
        self.transports = {name: Transport(name, driver, serializer) for name, driver in self.drivers.items()}
        self.handled: list[object] = []
        self.handle: Callable[[Envelope], Envelope] = self._handle
        failure_transports = {"async": "failed", "slow": "failed", "failed": None}
        settler = Settler(self.transports, failure_transports, Events())
        self.failed = FailedMessages([self.transports["failed"]], self.transports, self.types, settler, self._dispatch)

    def fail(self, body: object, message_id: str = "m-1", *stamps: Stamp, came_from: str | None = "async") -> None:
        """Put a message into the failure transport, as a worker does that gives it up."""
        given_up = (SentToFailureTransportStamp(came_from),) if came_from else ()
        error = ErrorDetailsStamp("shop.NoStock", 0, "sold out", {"trace_as_string": "Traceback ..."})
        marks = (MessageIdStamp(message_id), RedeliveryStamp(3, FAILED_AT), *given_up, error)
        self.transports["failed"].send(Envelope(body, (*marks, *stamps)))

    def fail_raw(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Put bytes into the failure transport as they are."""
        self.drivers["failed"].send([Outgoing("raw", body, headers)])

    def sent(self, name: str) -> Sequence[Outgoing]:
        return self.drivers[name].sent

    def failed_ids(self) -> list[str]:
        return [each.id for each in self.failed.list()]

    def retry(self, *ids: str) -> list[Outcome]:
        return list(self.failed.retry(self.failed.select(ids)))

    def _dispatch(self, envelope: Envelope) -> Envelope:
        return self.handle(envelope)

    def _handle(self, envelope: Envelope) -> Envelope:
        self.handled.append(envelope.message)
        return envelope.with_(HandledStamp(None, "shop.handle"))


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    for transport in shop.transports.values():
        transport.close()


def results(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    return [(each.selected.id, each.result) for each in outcomes]


def test_a_failed_message_is_listed_with_its_class_its_error_and_its_time(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1", OriginStamp("orders"))

    (found,) = shop.failed.list()

    assert (found.id, found.type_name, found.transport_name) == ("m-1", "shop.order_placed", "failed")
    assert [each.exception_message for each in found.errors] == ["sold out"]
    assert (found.redelivered_at, found.came_from, found.origin) == (FAILED_AT, "async", "orders")


def test_listing_leaves_every_message_where_it_is(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"))
    before = shop.drivers["failed"].counts()

    list(shop.failed.list())

    assert shop.drivers["failed"].counts() == before


@pytest.mark.parametrize("name", ["shop.order_placed", "OrderPlaced", f"{__name__}.OrderPlaced"])
def test_a_class_filter_takes_every_name_of_the_class(shop: Shop, name: str) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")
    shop.fail(OrderCancelled("o-2"), "m-2")

    assert [each.id for each in shop.failed.list(class_filter=name)] == ["m-1"]


def test_messages_are_counted_by_class_the_most_frequent_first(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")
    shop.fail(OrderCancelled("o-2"), "m-2")
    shop.fail(OrderCancelled("o-3"), "m-3")

    assert list(shop.failed.count_by_class().items()) == [("shop.order_cancelled", 2), ("shop.order_placed", 1)]


def test_a_retried_message_goes_back_to_the_queue_it_came_from_and_leaves_the_failure_transport(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1", OriginStamp("orders"), came_from="slow")

    outcomes = shop.retry("m-1")

    assert [(each.result, each.detail) for each in outcomes] == [("sent", "slow")]
    assert [(each.message_id, each.origin) for each in shop.sent("slow")] == [("m-1", "orders")]
    assert shop.sent("async") == []
    assert shop.failed_ids() == []


def test_a_retried_message_starts_anew_and_keeps_its_errors_and_its_successful_handlers(shop: Shop) -> None:
    stamps = (OriginStamp("orders"), DelayStamp(60_000), PostponedStamp(4), HandledStamp(None, "shop.receipt"))
    shop.fail(OrderPlaced("o-1"), "m-1", *stamps)

    shop.retry("m-1")

    (received,) = shop.transports["async"].get(1)
    of_the_failure = (RedeliveryStamp, SentToFailureTransportStamp, OriginStamp, DelayStamp, PostponedStamp)
    assert [received.last(kind) for kind in of_the_failure] == [None] * len(of_the_failure)
    assert [each.handler_name for each in received.all(HandledStamp)] == ["shop.receipt"]
    assert [each.exception_message for each in received.all(ErrorDetailsStamp)] == ["sold out"]


def test_a_retried_message_keeps_the_bytes_that_it_came_with(shop: Shop) -> None:
    body = b'{ "order_id":"o-1", "unknown": 1 }'
    encoded = JsonSerializer(shop.types).encode(
        Envelope(OrderPlaced("o-1"), (MessageIdStamp("m-1"), SentToFailureTransportStamp("async")))
    )
    shop.fail_raw(body, encoded.headers)

    shop.retry("m-1")

    assert [each.body for each in shop.sent("async")] == [body]


def test_bytes_that_could_not_be_decoded_go_back_as_they_came_without_the_marks_of_the_failure(shop: Shop) -> None:
    old = Shop()
    old.fail(OrderPlaced("o-1"), "m-1", OriginStamp("orders"))
    stored = old.sent("failed")[0]
    headers = {**stored.headers, "type": "shop.unknown", "x-app": "1"}
    shop.fail_raw(b"\xff\x00", headers)

    shop.retry("m-1")

    (sent,) = shop.sent("async")
    assert (sent.body, sent.origin) == (b"\xff\x00", "orders")
    assert (sent.headers["type"], sent.headers["x-app"]) == ("shop.unknown", "1")
    decoded = JsonSerializer(shop.types).decode_raw(EncodedEnvelope(sent.body, sent.headers), "")
    assert decoded.last(SentToFailureTransportStamp) is None
    assert decoded.last(RedeliveryStamp) is None
    assert decoded.last(OriginStamp) is None


def test_a_message_whose_class_is_known_by_now_is_decoded_again(shop: Shop) -> None:
    shop.fail(OrderCancelled("o-2"), "m-2")
    stored = shop.sent("failed")[0]
    without_the_class = Shop(types=[OrderPlaced])
    without_the_class.fail_raw(stored.body, stored.headers)

    assert [each.undecodable_reason is None for each in without_the_class.failed.list()] == [False]
    assert [each.undecodable_reason is None for each in shop.failed.list()] == [True]


class Unwilling(MemoryDriver):
    """Sends nothing."""

    def __init__(self, error: Exception) -> None:
        super().__init__("async", SystemClock())
        self.error = error

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent]:
        raise self.error


@pytest.mark.parametrize("error", [SendRefused("queue is full"), SendUnknown("no answer")])
def test_a_message_that_cannot_be_sent_stays_in_the_failure_transport(shop: Shop, error: Exception) -> None:
    shop.transports["async"] = Transport("async", Unwilling(error), JsonSerializer(shop.types))
    shop.fail(OrderPlaced("o-1"), "m-1")

    outcomes = shop.retry("m-1")

    assert results(outcomes) == [("m-1", "kept")]
    assert str(error) in outcomes[0].detail
    assert [(each.id, each.state) for each in shop.failed.list()] == [("m-1", "ready")]


def test_a_parked_message_that_cannot_be_sent_is_parked_again(shop: Shop) -> None:
    shop.transports["async"] = Transport("async", Unwilling(SendRefused("full")), JsonSerializer(shop.types))
    shop.fail(OrderPlaced("o-1"), "m-1")
    (envelope,) = shop.transports["failed"].get(1)
    shop.transports["failed"].park(envelope)
    shop.transports["failed"].flush()

    shop.retry("m-1")

    assert [(each.id, each.state) for each in shop.failed.list()] == [("m-1", "parked")]


def test_a_crash_between_sending_and_removing_leaves_the_message_in_both_places(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")

    with armed("failed_retry_sent=raise"), pytest.raises(BusError, match="failed_retry_sent"):
        shop.retry("m-1")
    for transport in shop.transports.values():
        transport.close()

    assert [each.message_id for each in shop.sent("async")] == ["m-1"]
    assert [(each.id, each.state) for each in shop.failed.list()] == [("m-1", "ready")]


def test_an_interrupted_retry_gives_its_messages_back_uncounted(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")

    with armed("failed_retry_sent=raise"), pytest.raises(BusError):
        shop.retry("m-1")
    shop.transports["failed"].close()

    (again,) = shop.transports["failed"].get(1)
    claim = again.last(ClaimStamp)
    assert claim is not None
    assert claim.claim.deliveries == 1


def test_a_message_is_removed_only_when_it_was_sent(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    shop.drivers["async"].on_arrival(lambda: steps.append("sent"))
    settle = shop.drivers["failed"].settle

    def note(batch: Sequence[Settlement]) -> Sequence[object]:
        steps.append("removed")
        return settle(batch)

    monkeypatch.setattr(shop.transports["failed"]._settlements, "_settle", note)
    shop.fail(OrderPlaced("o-1"), "m-1")

    shop.retry("m-1")

    assert steps == ["sent", "removed"]


@pytest.mark.parametrize(
    ("came_from", "why"),
    [("gone", 'the transport "gone", which does not exist'), (None, "Nothing says which transport it came from")],
)
def test_a_message_without_a_way_back_stays_and_says_why(shop: Shop, came_from: str | None, why: str) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1", came_from=came_from)

    outcomes = shop.retry("m-1")

    assert results(outcomes) == [("m-1", "kept")]
    assert why in outcomes[0].detail
    assert shop.failed_ids() == ["m-1"]


def test_a_message_that_somebody_else_holds_is_left_alone(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")
    selection = shop.failed.select(["m-1"])
    shop.transports["failed"].get(1)

    assert results(list(shop.failed.retry(selection))) == [("m-1", "gone")]
    assert shop.sent("async") == []


def test_each_copy_of_a_message_goes_back_to_its_own_origin(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1", OriginStamp("orders"))
    shop.fail(OrderPlaced("o-1"), "m-1", OriginStamp("audit"))

    shop.retry("m-1")

    assert sorted(str(each.origin) for each in shop.sent("async")) == ["audit", "orders"]


def test_every_page_of_messages_is_retried_and_what_fails_anew_is_not(shop: Shop) -> None:
    for number in range(250):
        shop.fail(OrderPlaced(f"o-{number}"), f"m-{number}")

    outcomes = []
    for outcome in shop.failed.retry(shop.failed.select()):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            shop.fail(OrderPlaced("o-0"), "m-0")

    assert len(outcomes) == len(shop.sent("async")) == 250
    assert shop.failed_ids() == ["m-0"]


HOSTILE_BODIES = [
    b"",
    b"null",
    b"[]",
    b"\xff\xfe\x00",
    b"{" * 5000,
    b"[" * 100_000,
    b'{"order_id": "\\ud800"}',
    b'{"order_id": "\x1b[2J\x1b]0;owned\x07"}',
    b"9" * 5000,
    '{"order_id": "\u202e"}'.encode(),
]
HOSTILE_HEADERS: list[dict[str, str]] = [
    {},
    {"type": ""},
    {"type": "os.system"},
    {"type": "shop.order_placed"},
    {"type": "shop.order_placed\r\nX-Evil: 1"},
    {"type": "\x1b[31m"},
    {"type": "shop.order_placed", "X-Message-Stamp-Symfony\\Component\\Messenger\\Stamp\\ErrorDetailsStamp": "[["},
    {"type": "shop.order_placed", "X-Message-Stamp-Symfony\\Component\\Messenger\\Stamp\\RedeliveryStamp": '["x"]'},
]


def hostile() -> Iterator[tuple[bytes, dict[str, str]]]:
    for body in HOSTILE_BODIES:
        for headers in HOSTILE_HEADERS:
            yield body, headers


def test_hostile_messages_are_listed_kept_and_removed_without_an_error(shop: Shop) -> None:
    for body, headers in hostile():
        shop.fail_raw(body, headers)
    count = len(HOSTILE_BODIES) * len(HOSTILE_HEADERS)

    assert [(each.body, each.headers) for each in shop.failed.list()] == list(hostile())
    assert {each.result for each in shop.failed.retry(shop.failed.select())} == {"kept"}
    assert sorted(each.body for each in shop.failed.list()) == sorted(body for body, _ in hostile())
    assert [each.result for each in shop.failed.remove(shop.failed.select())] == ["removed"] * count
    assert shop.failed_ids() == []


def test_only_the_chosen_messages_are_removed(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")
    shop.fail(OrderPlaced("o-2"), "m-2")

    outcomes = list(shop.failed.remove(shop.failed.select(["m-1"])))

    assert results(outcomes) == [("m-1", "removed")]
    assert shop.failed_ids() == ["m-2"]
    assert shop.sent("async") == []


def test_a_message_that_is_handled_here_leaves_the_failure_transport(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")

    outcomes = list(shop.failed.handle(shop.failed.select()))

    assert results(outcomes) == [("m-1", "handled")]
    assert shop.handled == [OrderPlaced("o-1")]
    assert shop.failed_ids() == []


def test_a_message_that_fails_again_here_is_parked_with_its_new_error(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")
    shop.handle = lambda envelope: envelope.with_(ParkDecisionStamp(RuntimeError("still sold out")))

    outcomes = list(shop.failed.handle(shop.failed.select()))

    assert results(outcomes) == [("m-1", "kept")]
    assert "still sold out" in outcomes[0].detail
    (kept,) = shop.failed.list()
    assert [each.exception_message for each in kept.errors] == ["sold out", "still sold out"]
    assert kept.state == "parked"


def test_bytes_that_cannot_be_decoded_are_not_handled_here_and_stay(shop: Shop) -> None:
    shop.fail_raw(b"{", {"type": "shop.order_placed"})

    outcomes = list(shop.failed.handle(shop.failed.select()))

    assert [each.result for each in outcomes] == ["kept"]
    assert shop.handled == []
    assert [each.body for each in shop.failed.list()] == [b"{"]


def test_ctrl_c_in_a_handler_is_the_last_message_that_is_handled_here(shop: Shop) -> None:
    shop.fail(OrderPlaced("o-1"), "m-1")
    shop.fail(OrderPlaced("o-2"), "m-2")
    shop.handle = lambda envelope: envelope.with_(ParkDecisionStamp(KeyboardInterrupt()))

    outcomes = list(shop.failed.handle(shop.failed.select()))

    assert results(outcomes) == [("m-1", "kept")]
    assert sorted(shop.failed_ids()) == ["m-1", "m-2"]


@pytest.mark.parametrize("step", ["retry", "handle", "remove"])
def test_a_failure_transport_that_does_not_answer_ends_it_and_is_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def silent(batch: Sequence[Settlement]) -> Sequence[object]:
        raise ConnectionLostError("no server")

    shop.fail(OrderPlaced("o-1"))
    monkeypatch.setattr(shop.transports["failed"]._settlements, "_settle", silent)

    with pytest.raises(ConnectionLostError, match='"failed" does not answer: 1 messages'):
        list(getattr(shop.failed, step)(shop.failed.select()))
    monkeypatch.undo()


class Deaf:
    """A driver that cannot list its messages."""

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent]:
        return [Sent() for _ in batch]

    def get(self, limit: int) -> Sequence[Delivery]:
        return []

    def settle(self, batch: Sequence[Settlement]) -> Sequence[object]:
        return []

    def close(self) -> None:
        """Nothing is open."""


def test_a_failure_transport_that_cannot_list_says_so(shop: Shop) -> None:
    deaf = Transport("deaf", Deaf(), JsonSerializer(shop.types))  # type: ignore[arg-type]
    settler = Settler(shop.transports, {}, Events())
    failed = FailedMessages([deaf], shop.transports, shop.types, settler, lambda envelope: envelope)

    with pytest.raises(ConfigurationError, match='"deaf" cannot list its messages'):
        list(failed.list())
