"""Outcomes are carried out in an order that loses nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from bus import aio, headers
from bus.envelope import Envelope
from bus.errors import (
    AccessDeniedError,
    ConnectionLostError,
    HandlerFailedError,
    SendRefused,
    SendUnknown,
    TransportError,
)
from bus.events import Events, MessageSettled
from bus.messages import MessageTypes, UndecodableMessage
from bus.messages import message as wire_message
from bus.serializer import JsonSerializer
from bus.settlement import Settler
from bus.stamps import (
    ClaimStamp,
    DelayStamp,
    ErrorDetailsStamp,
    FailureDecisionStamp,
    HandledStamp,
    MessageIdStamp,
    OriginStamp,
    ParkDecisionStamp,
    PeekedStamp,
    PostponedStamp,
    ReceivedStamp,
    RedeliveryStamp,
    RetryDecisionStamp,
    SentToFailureTransportStamp,
)
from bus.transports.base import Outgoing, Sent, Settlement
from bus.transports.memory import MemoryDriver
from bus.transports.transport import Transport

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
BODY = b'{"order_id" : "o-1"}'


@wire_message("settlement.order")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


class TurnedClock:
    def __init__(self) -> None:
        self.time = NOW.timestamp()

    def now(self) -> float:
        return self.time

    monotonic = now


class DeclinedError(Exception):
    pass


class Store(MemoryDriver):
    """An in-memory server that can be down, and that remembers in which order it was asked for what."""

    def __init__(self, name: str, clock: TurnedClock, journal: list[str]) -> None:
        super().__init__(name, clock)
        self.name = name
        self.journal = journal
        self.errors: list[TransportError] = []
        self.settlements: list[Settlement] = []
        self.threads: list[int] = []

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent]:
        self.threads.append(threading.get_ident())
        if self.errors:
            self.journal.append(f"{self.name} is down")
            raise self.errors.pop(0)
        self.journal.append(f"stored in {self.name}")
        return super().send(batch)

    def settle(self, batch: Sequence[Settlement]) -> Sequence:  # type: ignore[type-arg]
        self.journal += [f"{type(each).__name__} in {self.name}" for each in batch]
        self.settlements += batch
        return super().settle(batch)


class World:
    """A transport with a failure transport, a transport without one, and what happened to them."""

    def __init__(self) -> None:
        self.clock = TurnedClock()
        self.journal: list[str] = []
        serializer = JsonSerializer(MessageTypes([OrderPlaced]))
        self.stores = {name: Store(name, self.clock, self.journal) for name in ("async", "failed", "lone")}
        self.transports = {
            name: Transport(name, store, serializer, clock=self.clock) for name, store in self.stores.items()
        }
        for transport in self.transports.values():
            transport.window = 1  # every settlement is carried out at once
        self.events: list[MessageSettled] = []
        events = Events()
        events.on(MessageSettled, self.events.append)
        self.settler = Settler(self.transports, {"async": "failed", "failed": None, "lone": None}, events)

    def receive(self, name: str = "async", body: bytes = BODY, fields: dict[str, str] | None = None) -> Envelope:
        fields = {"type": "settlement.order", **(fields or {})}
        self.stores[name].send([Outgoing("m-1", body, fields)])
        return self.get(name)

    def get(self, name: str = "async") -> Envelope:
        self.journal.clear()
        (envelope,) = self.transports[name].get(1)
        return envelope

    def waiting(self, name: str) -> list[Envelope]:
        return self.transports[name].peek(100) or []

    def only(self, name: str) -> Envelope:
        (envelope,) = self.waiting(name)
        return envelope

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.events]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for transport in world.transports.values():
        transport.close()


def failed_with(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def messages(envelope: Envelope) -> list[str]:
    return [each.exception_message for each in envelope.all(ErrorDetailsStamp)]


def raw(envelope: Envelope) -> tuple[bytes, dict[str, str]]:
    stamp = envelope.last(PeekedStamp)
    assert stamp is not None
    return stamp.body, dict(stamp.headers)


# --- handled ---


def test_a_handled_message_is_acknowledged(world: World) -> None:
    received = world.receive()
    world.settler.conclude(received, received)
    assert world.journal == ["Ack in async"]
    (event,) = world.events
    assert (event.envelope, event.transport_name, event.outcome, event.error) == (received, "async", "handled", None)


def test_a_stack_that_returns_an_envelope_of_its_own_has_handled_the_message_too(world: World) -> None:
    world.settler.conclude(world.receive(), Envelope("something else"))
    assert world.journal == ["Ack in async"]


def test_a_message_is_concluded_once(world: World) -> None:
    received = world.receive()
    error = failed_with(DeclinedError("declined"))
    for _ in range(2):
        world.settler.conclude(received, received.with_(FailureDecisionStamp("failed", error)))
    assert world.journal == ["stored in failed", "Ack in async"]
    assert world.outcomes == ["failed"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_concludes_nothing(world: World) -> None:
    received = world.receive()
    pid = os.fork()
    if pid == 0:
        world.settler.conclude(received, failed_with(DeclinedError("in the child")))
        os._exit(len(world.journal))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# --- tried again ---


def retried(world: World, received: Envelope, error: BaseException, delay: int = 1000) -> Envelope:
    world.settler.conclude(received, received.with_(RetryDecisionStamp(delay, error)))
    return world.only(received.all(ReceivedStamp)[0].transport_name)


def test_a_retry_is_one_requeue_with_the_original_bytes_its_delay_and_its_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    again = retried(world, world.receive(), failed_with(DeclinedError("declined")), 1500)
    assert world.journal == ["Requeue in async"]
    (settlement,) = world.stores["async"].settlements
    outgoing = settlement.outgoing  # type: ignore[union-attr]
    assert (outgoing.delay_ms, outgoing.attempt, outgoing.origin) == (1500, 1, "async")
    assert raw(again)[0] == BODY
    assert again.last(RedeliveryStamp) == RedeliveryStamp(1, NOW)
    assert again.last(DelayStamp) == DelayStamp(1500)
    assert messages(again) == ["declined"]
    assert world.outcomes == ["retried"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(
        'of "async" failed and is tried again in 1500 ms (retry 1): DeclinedError: declined'
    )
    assert (record.transport, record.attempt) == ("async", 0)  # type: ignore[attr-defined]


def test_retries_are_counted_and_the_same_error_is_kept_once(world: World) -> None:
    received = world.receive()
    identity = received.last(MessageIdStamp)
    for number, text in enumerate(["one", "one", "two"], 1):
        again = retried(world, received, failed_with(DeclinedError(text)))
        assert again.last(RedeliveryStamp) == RedeliveryStamp(number, datetime.fromtimestamp(world.clock.time, UTC))
        assert again.last(MessageIdStamp) == identity
        world.clock.time += 1
        received = world.get()
    assert messages(received) == ["one", "two"]


def test_handlers_that_succeeded_do_not_run_again(world: World) -> None:
    received = world.receive()
    error = HandlerFailedError(received.with_(HandledStamp("result", "send_receipt")), {"other": DeclinedError("no")})
    again = retried(world, error.envelope.with_(), error)
    assert again.last(HandledStamp) == HandledStamp(None, "send_receipt")
    assert messages(again) == ["no"]


def test_a_stack_that_made_its_own_envelope_loses_neither_the_id_nor_the_handled_ones(world: World) -> None:
    received = world.receive()
    made = Envelope(OrderPlaced("other"), (HandledStamp(None, "send_receipt"),))
    world.settler.conclude(received, made.with_(RetryDecisionStamp(1, DeclinedError("no"))))
    again = world.only("async")
    assert again.message == OrderPlaced("o-1")
    assert again.last(MessageIdStamp) == received.last(MessageIdStamp)
    assert again.last(HandledStamp) is not None


def test_a_forged_count_of_retries_starts_at_one(world: World) -> None:
    received = world.receive().with_(RedeliveryStamp(-1_000_000))
    again = retried(world, received, DeclinedError("no"))
    assert again.last(RedeliveryStamp) == RedeliveryStamp(1, NOW)


# --- given up ---


def test_a_given_up_message_is_stored_before_its_original_is_acknowledged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    received = world.receive().with_(RedeliveryStamp(3, NOW), DelayStamp(4000), PostponedStamp(2))
    error = failed_with(HandlerFailedError(received, {"charge": failed_with(DeclinedError("declined"))}))
    world.settler.conclude(received, received.with_(FailureDecisionStamp("failed", error)))
    assert world.journal == ["stored in failed", "Ack in async"]
    stored = world.get("failed")
    claim_stamp = stored.last(ClaimStamp)
    assert claim_stamp is not None
    assert claim_stamp.body == BODY
    assert stored.last(SentToFailureTransportStamp) == SentToFailureTransportStamp("async")
    assert stored.last(OriginStamp) == OriginStamp("async")
    assert stored.last(RedeliveryStamp) == RedeliveryStamp(0, NOW)
    assert stored.last(DelayStamp) == DelayStamp(0)
    assert stored.last(PostponedStamp) is None
    assert stored.last(MessageIdStamp) == received.last(MessageIdStamp)
    details = stored.last(ErrorDetailsStamp)
    assert details is not None
    assert details.exception_class == f"{__name__}.DeclinedError"
    assert world.outcomes == ["failed"]
    assert world.events[0].error is error
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert 'failed for good and goes to "failed": Handler "charge" failed: DeclinedError: declined' in (
        record.getMessage()
    )
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], DeclinedError)


def test_the_first_origin_of_a_message_stays(world: World) -> None:
    received = world.receive(fields={headers.ORIGIN: "orders.eu"})
    world.settler.conclude(received, received.with_(FailureDecisionStamp("failed", DeclinedError("no"))))
    assert world.only("failed").all(OriginStamp) == (OriginStamp("orders.eu"),)


def test_what_escapes_the_stack_goes_to_the_failure_transport_too(world: World) -> None:
    received = world.receive()
    error = HandlerFailedError(received.with_(HandledStamp(None, "send_receipt")), {"charge": DeclinedError("no")})
    world.settler.conclude(received, error)
    assert world.journal == ["stored in failed", "Ack in async"]
    assert world.only("failed").last(HandledStamp) is not None
    assert (world.events[0].envelope, world.events[0].error) == (received, error)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_handler_that_exits_is_a_failed_handler(world: World, error: BaseException) -> None:
    world.settler.conclude(world.receive(), failed_with(error))
    assert world.outcomes == ["failed"]


def test_a_message_that_somebody_else_has_meanwhile_is_not_stored(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    received = world.receive()
    claim_stamp = received.last(ClaimStamp)
    assert claim_stamp is not None
    claim_stamp.claim.withdraw()
    world.settler.conclude(received, failed_with(DeclinedError("no")))
    assert world.journal == []
    assert "Claim lost" in caplog.text


def test_in_a_greenlet_storing_does_not_block_the_loop(world: World) -> None:
    received = world.receive()
    result = received.with_(FailureDecisionStamp("failed", DeclinedError("no")))

    async def run() -> None:
        await aio.run_in_greenlet(world.settler.conclude, received, result)

    world.stores["failed"].threads.clear()
    asyncio.run(run())
    world.transports["async"].flush()
    assert threading.get_ident() not in world.stores["failed"].threads
    assert world.journal == ["stored in failed", "Ack in async"]


# --- the failure transport is down ---


def give_up(world: World, received: Envelope, error: BaseException | None = None) -> None:
    error = error or failed_with(DeclinedError("declined"))
    world.settler.conclude(received, received.with_(FailureDecisionStamp("failed", error)))


@pytest.mark.parametrize("problem", [ConnectionLostError("down"), SendUnknown("perhaps"), SendRefused("no")])
def test_a_message_that_cannot_be_stored_goes_back_and_is_not_acknowledged(
    world: World, problem: TransportError
) -> None:
    received = world.receive()
    world.stores["failed"].errors = [problem]
    give_up(world, received)
    assert world.journal == ["failed is down", "Requeue in async"]
    assert world.waiting("failed") == []
    back = world.only("async")
    assert back.last(PostponedStamp) == PostponedStamp(1)
    assert raw(back)[0] == BODY
    assert messages(back) == ["declined"]
    assert world.outcomes == ["postponed"]


def test_it_is_put_back_for_longer_and_longer_and_stored_without_another_attempt(world: World) -> None:
    received = world.receive()
    world.stores["failed"].errors = [ConnectionLostError("down") for _ in range(8)]
    give_up(world, received)
    for _ in range(7):
        world.clock.time += 31
        assert world.settler.refuse(world.get())
    delays = [each.outgoing.delay_ms for each in world.stores["async"].settlements]  # type: ignore[union-attr]
    assert delays == [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
    assert world.outcomes == ["postponed"] * 8
    world.clock.time += 31
    assert world.settler.refuse(world.get())
    assert world.journal == ["stored in failed", "Ack in async"]
    stored = world.only("failed")
    assert messages(stored) == ["declined"]
    assert stored.all(SentToFailureTransportStamp) == (SentToFailureTransportStamp("async"),)
    assert stored.last(PostponedStamp) is None
    assert raw(stored)[0] == BODY
    assert world.outcomes[-1] == "failed"


@pytest.mark.parametrize(
    ("problem", "level"),
    [
        (ConnectionLostError("down"), logging.WARNING),
        (SendUnknown("perhaps"), logging.WARNING),
        (SendRefused("too large"), logging.ERROR),
        (AccessDeniedError("no rights"), logging.ERROR),
    ],
)
def test_what_needs_a_person_is_logged_as_an_error(
    world: World, caplog: pytest.LogCaptureFixture, problem: TransportError, level: int
) -> None:
    received = world.receive()
    world.stores["failed"].errors = [problem]
    give_up(world, received)
    (record,) = caplog.records
    assert record.levelno == level
    assert 'put back for 1000 ms, because storing it in "failed" failed: ' in record.getMessage()


def test_a_bug_while_storing_puts_the_message_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    received = world.receive()

    def broken(batch: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(world.stores["failed"], "send", broken)
    give_up(world, received)
    assert world.journal == ["Requeue in async"]
    assert world.outcomes == ["postponed"]


def test_a_failure_transport_that_does_not_exist_puts_the_message_back(world: World) -> None:
    received = world.receive()
    world.settler.conclude(received, received.with_(FailureDecisionStamp("nowhere", DeclinedError("no"))))
    assert world.journal == ["Requeue in async"]


def test_an_outcome_that_cannot_be_carried_out_puts_the_message_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = world.receive(fields={headers.POSTPONED: "4"})

    def broken(envelope: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(world.transports["async"], "ack", broken)
    world.settler.conclude(received, received)
    assert world.journal == ["Requeue in async"]
    assert world.only("async").last(PostponedStamp) == PostponedStamp(5)
    assert world.outcomes == ["postponed"]


def test_a_message_that_was_only_put_back_is_handled_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # It was retried by a person, who left the mark of its failure on it.
    received = world.receive().with_(SentToFailureTransportStamp("async"))
    monkeypatch.setattr(world.transports["async"], "ack", lambda envelope: 1 / 0)
    world.settler.conclude(received, received)
    world.clock.time += 2
    assert not world.settler.refuse(world.get())


def test_a_retry_ends_the_postponements(world: World) -> None:
    received = world.receive(fields={headers.POSTPONED: "4"})
    assert retried(world, received, DeclinedError("no")).last(PostponedStamp) is None


def test_a_forged_count_of_postponements_waits_no_longer_than_30_s(world: World) -> None:
    received = world.receive(fields={headers.POSTPONED: str(2**40)})
    world.stores["failed"].errors = [ConnectionLostError("down")]
    give_up(world, received)
    (settlement,) = world.stores["async"].settlements
    assert settlement.outgoing.delay_ms == 30_000  # type: ignore[union-attr]


# --- refused without an attempt ---


def test_a_good_message_is_not_refused(world: World) -> None:
    assert not world.settler.refuse(world.receive())
    assert world.journal == []
    assert world.events == []


def test_undecodable_bytes_go_to_the_failure_transport_byte_for_byte(world: World) -> None:
    fields = {"type": "os.system", "X-Odd": "\N{SNOWMAN}", "Content-Type": "text/plain"}
    body = b"\x00\xff not json"
    assert world.settler.refuse(world.receive(body=body, fields=fields))
    assert world.journal == ["stored in failed", "Ack in async"]
    stored = world.only("failed")
    assert isinstance(stored.message, UndecodableMessage)
    stored_body, stored_headers = raw(stored)
    assert stored_body == body
    assert {name: stored_headers[name] for name in fields} == fields
    details = stored.last(ErrorDetailsStamp)
    assert details is not None
    assert details.exception_class == "bus.errors.DecodingError"
    assert "os.system" in details.exception_message
    assert world.outcomes == ["failed"]


def test_a_message_that_kills_its_workers_goes_to_the_failure_transport_unread(world: World) -> None:
    world.stores["async"].send([Outgoing("m-1", BODY, {"type": "settlement.order", "X-Odd": "1"})])
    for _ in range(4):
        received = world.get()
        claim_stamp = received.last(ClaimStamp)
        assert claim_stamp is not None
        if claim_stamp.claim.deliveries <= 3:
            assert not world.settler.refuse(received)
        claim_stamp.claim.begin()
        if claim_stamp.claim.deliveries == 4:
            break
        world.stores["async"].close()  # as after a crash: it was begun and never settled
    assert world.settler.refuse(received)
    stored = world.only("failed")
    assert stored.message == OrderPlaced("o-1")
    assert raw(stored)[0] == BODY
    assert raw(stored)[1]["X-Odd"] == "1"
    (text,) = messages(stored)
    assert text.startswith("The message was delivered 4 times without ever being settled; it probably kills its worker")


def test_a_good_message_that_was_delivered_too_often_is_refused_too(world: World) -> None:
    received = world.receive()
    claim_stamp = received.last(ClaimStamp)
    assert claim_stamp is not None
    claim_stamp.claim.deliveries = 4
    assert world.settler.refuse(received)
    assert world.journal == ["stored in failed", "Ack in async"]


# --- read from the failure transport ---


def test_a_message_that_fails_again_is_parked_with_its_new_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    give_up(world, world.receive())
    received = world.get("failed")
    error = failed_with(DeclinedError("declined again"))
    # As failed_message_processing leaves it: with the original receiver in front.
    result = received.with_(ReceivedStamp("async"), HandledStamp(None, "one"), ParkDecisionStamp(error))
    caplog.clear()
    world.settler.conclude(received, result)
    assert world.journal == ["Park in failed"]
    parked = world.only("failed")
    assert messages(parked) == ["declined", "declined again"]
    assert parked.last(HandledStamp) is not None
    assert parked.last(OriginStamp) == OriginStamp("async")
    stood = parked.last(PeekedStamp)
    assert stood is not None
    assert (stood.state, stood.body) == ("parked", BODY)
    assert world.outcomes[-1] == "parked"
    assert caplog.records[0].levelno == logging.ERROR


@pytest.mark.parametrize("body", [BODY, b"\xff"])
def test_nothing_that_fails_in_a_failure_transport_is_discarded(world: World, body: bytes) -> None:
    received = world.receive("failed", body=body)
    if not world.settler.refuse(received):
        world.settler.conclude(received, failed_with(DeclinedError("no")))
    assert world.journal == ["Park in failed"]
    assert raw(world.only("failed"))[0] == body


# --- no failure transport ---


@pytest.mark.parametrize(
    ("body", "shown"),
    [(BODY, 'body as text: {"order_id" : "o-1"}'), (b"\xff\n", "body as base64: /wo=")],
)
def test_without_a_failure_transport_the_whole_message_is_logged_and_discarded(
    world: World, caplog: pytest.LogCaptureFixture, body: bytes, shown: str
) -> None:
    received = world.receive("lone", body=body, fields={"X-Odd": "1", headers.MESSAGE_ID: "m-9"})
    world.settler.conclude(received, failed_with(DeclinedError("declined")))
    assert world.journal == ["Discard in lone"]
    assert world.outcomes == ["discarded"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    text = record.getMessage()
    assert text.startswith('Message m-9 of "lone" is discarded')
    assert "DeclinedError: declined" in text
    assert json.dumps({"type": "settlement.order", "X-Odd": "1", headers.MESSAGE_ID: "m-9"}) in text
    assert text.endswith(shown)
    assert record.message_id == "m-9"  # type: ignore[attr-defined]


def test_a_hostile_error_is_settled_like_any_other(world: World) -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise SystemExit

        __repr__ = __str__

    for conclude in (
        lambda received: world.settler.conclude(received, failed_with(HostileError())),
        lambda received: retried(world, received, failed_with(HostileError())),
    ):
        conclude(world.receive())
        assert "__str__ raises" in messages(world.waiting("failed")[0])[0]
    assert world.outcomes == ["failed", "retried"]


def test_a_listener_that_fails_does_not_change_what_becomes_of_a_message(world: World) -> None:
    events = Events()
    events.on(MessageSettled, lambda event: 1 / 0)
    settler = Settler(world.transports, {"async": "failed"}, events)
    received = world.receive()
    settler.conclude(received, received)
    assert world.journal == ["Ack in async"]
