from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from bus import (
    BusConfig,
    ConfigurationError,
    ConnectionLostError,
    Envelope,
    HandledStamp,
    HandlerFailedError,
    IdempotencyMiddleware,
    InProgressElsewhereError,
    MemoryStore,
    MessageIdStamp,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    MissingMessageIdError,
    RetryPolicy,
    SentToFailureTransportStamp,
    TransportConfig,
    UnrecoverableError,
)
from bus.stamps import ClaimStamp, FailureDecisionStamp, RandomIdStamp, RedeliveryStamp
from bus.store.claims import Claims, ClaimState
from bus.testing.clock import FakeClock
from bus.transports.base import Claim, Delivery
from bus.transports.codec import Codec
from bus.transports.memory import MemoryDriver
from bus.worker import WorkerOptions


@dataclass(frozen=True)
class Placed:
    id: str


class Effects:
    """A handler that notes its effects, and does first what it is told to."""

    def __init__(self, does: Callable[[], object] = lambda: None) -> None:
        self.seen: list[str] = []
        self.does = does

    def __call__(self, event: Placed) -> str:
        self.does()
        self.seen.append(event.id)
        return f"done with {event.id}"


class MoreEffects(Effects):
    def __call__(self, event: Placed) -> str:
        return super().__call__(event)


def fail() -> None:
    raise ValueError("not now")


def key_of(handler: Effects, number: str = "m-1") -> str:
    return f"idempotency:{number}:{__name__}.{type(handler).__qualname__}.__call__"


def messenger(*handlers: Any, clock: FakeClock | None = None, **arguments: Any) -> Messenger:
    idempotency = MiddlewareConfig(name="idempotency", arguments=arguments)
    return Messenger(
        MessengerConfig(
            buses={"bus": BusConfig(middleware=(idempotency,))},
            transports={
                "async": TransportConfig(dsn="in-memory://", retry=RetryPolicy(max_retries=2, delay=0)),
                "failed": TransportConfig(dsn="in-memory://"),
            },
            failure_transport="failed",
            routing={f"{__name__}.Placed": ("async",)},
            store="memory://",
        ),
        handlers=handlers,
        clock=clock,
    )


def send(bus: Messenger, number: str = "m-1") -> None:
    bus.dispatch(Placed("o-1"), [MessageIdStamp(number)])


def consume(bus: Messenger) -> None:
    bus.worker(("async",), WorkerOptions(stop_when_empty=True)).run()


def driver_of(bus: Messenger, name: str = "async") -> MemoryDriver:
    driver = bus.transport(name).driver
    assert isinstance(driver, MemoryDriver)
    return driver


def claim_elsewhere(bus: Messenger, handler: Effects) -> Callable[[], object]:
    """Claim the message for a handler as another process would; return what completes it."""
    claims = Claims(bus.store)
    token = claims.token()
    assert claims.claim(key_of(handler), token) is ClaimState.NEW
    return lambda: claims.complete(key_of(handler), token)


def _keep_for_ever(bus: Messenger, key: str) -> None:
    """Take the lease's time away, as renewing does while a fake clock runs ahead."""
    value = bus.store.get(key)
    assert value is not None
    assert bus.store.swap(key, value, value)


def test_a_handler_runs_once_for_each_message(caplog: pytest.LogCaptureFixture) -> None:
    effects = Effects()
    bus = messenger(effects)
    caplog.set_level(logging.INFO)
    for number in ("m-1", "m-1", "m-2", "m-1"):
        send(bus, number)

    consume(bus)

    assert effects.seen == ["o-1", "o-1"]
    assert len(driver_of(bus).acknowledged) == 4
    skipped = [record for record in caplog.records if "is skipped" in record.message]
    assert [record.levelno for record in skipped] == [logging.INFO] * 2


def test_each_handler_of_a_message_is_remembered_by_itself() -> None:
    effects, others = Effects(), MoreEffects(fail)
    bus = messenger(effects, others)
    send(bus)
    consume(bus)
    others.does = lambda: None
    send(bus)

    consume(bus)

    assert effects.seen == ["o-1"]
    assert others.seen == ["o-1"]


def test_a_handler_that_fails_gives_its_claim_back() -> None:
    effects = Effects(fail)
    bus = messenger(effects)
    send(bus)

    consume(bus)

    assert effects.seen == []
    assert bus.store.get(key_of(effects)) is None
    assert len(driver_of(bus, "failed").sent) == 1


def test_a_skipped_handler_leaves_a_stamp_without_a_result() -> None:
    middleware, effects = IdempotencyMiddleware(MemoryStore()), Effects()
    config = BusConfig(middleware=(MiddlewareConfig(name=f"{__name__}:given", positional=(middleware,)),))
    bus = Messenger(MessengerConfig(buses={"bus": config}), handlers=[effects])
    envelope = Envelope(Placed("o-1"), (MessageIdStamp("m-1"),))

    results = [bus.dispatch(envelope).all(HandledStamp)[0].result for _ in range(2)]

    assert results == ["done with o-1", None]


def given(middleware: IdempotencyMiddleware) -> IdempotencyMiddleware:
    return middleware


# --- in progress elsewhere ---


def test_a_message_in_progress_elsewhere_is_postponed_and_that_is_no_attempt() -> None:
    effects, clock = Effects(), FakeClock()
    bus = messenger(effects, clock=clock)
    driver = driver_of(bus)
    complete = claim_elsewhere(bus, effects)
    _keep_for_ever(bus, key_of(effects))
    send(bus)
    waits = []
    for _ in range(7):
        consume(bus)
        (message,) = driver.peek(10)
        assert message.state == "delayed"
        (stored,) = driver._messages.values()
        waits.append(round(stored.available_at - clock.now()))
        clock.advance(waits[-1])
    complete()

    consume(bus)

    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert effects.seen == []
    assert len(driver.acknowledged) == 1
    assert driver_of(bus, "failed").sent == []


def test_what_was_postponed_is_handled_when_the_other_one_has_failed() -> None:
    effects, clock = Effects(), FakeClock()
    bus = messenger(effects, clock=clock)
    claims = Claims(bus.store)
    token = claims.token()
    claims.claim(key_of(effects), token)
    send(bus)
    consume(bus)
    claims.release(key_of(effects), token)
    clock.advance(1)

    consume(bus)

    assert effects.seen == ["o-1"]


def test_one_failed_handler_beside_one_in_progress_makes_an_attempt() -> None:
    effects, others = Effects(), MoreEffects(fail)
    bus = messenger(effects, others)
    claim_elsewhere(bus, effects)
    send(bus)

    consume(bus)

    (given_up,) = driver_of(bus, "failed").sent
    assert effects.seen == []
    assert given_up.message_id == "m-1"


def test_what_is_in_progress_has_no_say_in_whether_the_failed_one_is_tried_again() -> None:
    attempts: list[int] = []

    def refuse() -> None:
        attempts.append(1)
        raise UnrecoverableError("never")

    effects, others = Effects(), MoreEffects(refuse)
    bus = messenger(effects, others)
    claim_elsewhere(bus, effects)
    send(bus)

    consume(bus)

    assert len(attempts) == 1
    assert len(driver_of(bus, "failed").sent) == 1


def test_a_handler_that_succeeded_is_not_asked_again_after_the_postponement() -> None:
    effects, others, clock = Effects(), MoreEffects(), FakeClock()
    bus = messenger(effects, others, clock=clock)
    complete = claim_elsewhere(bus, others)
    send(bus)
    consume(bus)
    complete()
    clock.advance(1)

    consume(bus)

    assert effects.seen == ["o-1"]
    assert others.seen == []
    assert len(driver_of(bus).acknowledged) == 1


def test_a_message_of_the_failure_transport_is_postponed_there_and_keeps_its_origin() -> None:
    effects, clock = Effects(fail), FakeClock()
    bus = messenger(effects, clock=clock)
    send(bus)
    consume(bus)
    effects.does = lambda: None
    complete = claim_elsewhere(bus, effects)

    bus.worker(("failed",), WorkerOptions(stop_when_empty=True)).run()

    (envelope,) = bus.transport("failed").peek(10) or ()
    assert envelope.last(SentToFailureTransportStamp) == SentToFailureTransportStamp("async")
    complete()


def test_a_message_that_is_handled_where_it_is_dispatched_raises_what_is_in_progress() -> None:
    started, finish = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        finish.wait(10)

    effects = Effects(wait)
    config = BusConfig(middleware=(MiddlewareConfig(name="idempotency"),))
    bus = Messenger(MessengerConfig(buses={"bus": config}, store="memory://"), handlers=[effects])
    envelope = Envelope(Placed("o-1"), (MessageIdStamp("m-1"),))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(bus.dispatch, envelope)
        started.wait(10)
        with pytest.raises(HandlerFailedError) as caught:
            bus.dispatch(envelope)
        finish.set()
        first.result(10)

    (error,) = caught.value.errors.values()
    assert isinstance(error, InProgressElsewhereError)
    assert effects.seen == ["o-1"]


# --- the store ---


class BrokenStore(MemoryStore):
    def put_if_absent(self, key: str, value: str, ttl: float | None = None) -> bool:
        raise ConnectionLostError("the store does not answer")


def broken_store() -> IdempotencyMiddleware:
    return IdempotencyMiddleware(BrokenStore())


def test_a_store_that_does_not_answer_is_a_failed_attempt_and_never_unseen() -> None:
    effects = Effects()
    config = BusConfig(middleware=(MiddlewareConfig(name=f"{__name__}:broken_store"),))
    bus = Messenger(MessengerConfig(buses={"bus": config}), handlers=[effects])

    with pytest.raises(HandlerFailedError, match="the store does not answer"):
        bus.dispatch(Placed("o-1"))

    assert effects.seen == []


def test_a_claim_that_was_lost_while_the_handler_ran_counts_as_in_progress_elsewhere() -> None:
    clock = FakeClock()

    def lose() -> None:
        clock.advance(16)
        claims = Claims(bus.store)
        claims.claim(key_of(effects), claims.token())

    effects = Effects(lose)
    bus = messenger(effects, clock=clock)
    send(bus)

    consume(bus)

    (message,) = driver_of(bus).peek(10)
    assert message.state == "delayed"
    assert driver_of(bus, "failed").sent == []
    assert str(bus.store.get(key_of(effects))).startswith("claimed")


def test_what_is_done_is_forgotten_after_the_ttl() -> None:
    effects, clock = Effects(), FakeClock()
    bus = messenger(effects, clock=clock, ttl="1h")
    for seconds in (0, 3599, 2):
        clock.advance(seconds)
        send(bus)
        consume(bus)

    assert effects.seen == ["o-1", "o-1"]


def test_a_ttl_that_the_retries_outlast_is_refused() -> None:
    config = MessengerConfig(
        buses={"bus": BusConfig(middleware=(MiddlewareConfig(name="idempotency", arguments={"ttl": "7s"}),))},
        transports={"async": TransportConfig(dsn="in-memory://", retry=RetryPolicy(delay=1000, jitter=0.1))},
        store="memory://",
    )

    with pytest.raises(ConfigurationError, match='is not longer than the retries of transport "async" may take'):
        Messenger(config)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"tll": "1h"}, 'has no argument "tll"; its arguments are "store", "ttl", "missing_id"; did you mean "ttl"?'),
        ({"missing_id": "guess"}, '"missing_id" must be "error", "hash" or "handle", not "guess"'),
        ({"ttl": "0s"}, '"ttl" of idempotency must be longer'),
        ({"store": "mongodb://x"}, 'no store for "mongodb://"'),
    ],
)
def test_wrong_arguments_are_problems_of_the_configuration(arguments: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Messenger(
            MessengerConfig(
                buses={"bus": BusConfig(middleware=(MiddlewareConfig(name="idempotency", arguments=arguments),))}
            )
        )

    assert problem in str(caught.value)


def test_a_middleware_without_a_store_of_its_own_uses_the_shared_one_and_others_share_theirs(tmp_path: Any) -> None:
    dsn = f"sqlite:///{tmp_path / 'other.db'}"
    own = MiddlewareConfig(name="idempotency", arguments={"store": dsn})
    effects = Effects()
    config = MessengerConfig(
        buses={"a": BusConfig(middleware=(own,)), "b": BusConfig(middleware=(own,))}, default_bus="a", store="memory://"
    )
    with Messenger(config, handlers=[effects]) as bus:
        envelope = Envelope(Placed("o-1"), (MessageIdStamp("m-1"),))
        bus.buses["a"].dispatch(envelope)
        bus.buses["b"].dispatch(envelope)

        assert effects.seen == ["o-1"]
        assert bus.store.get(key_of(effects)) is None


# --- messages without an id of their own ---


class NumberedClaim(Claim):
    """A claim as on AMQP, where a copy has another number at each delivery."""

    has_stable_id = False


def received_without_id(bus: Messenger, body: bytes = b'{"id": "o-1"}') -> Envelope:
    codec: Codec = bus.transport("async")._codec
    return codec.decode(Delivery(body, {"type": f"{__name__}.Placed"}, NumberedClaim(1, 1, "async")))


def test_a_message_whose_id_changes_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    effects = Effects()
    bus = messenger(effects)
    envelope = received_without_id(bus)

    result = bus.dispatch(envelope)

    decision = result.last(FailureDecisionStamp)
    assert envelope.last(RandomIdStamp) is not None
    assert decision is not None
    assert isinstance(decision.error, HandlerFailedError)
    (error,) = decision.error.errors.values()
    assert isinstance(error, MissingMessageIdError)
    assert effects.seen == []
    assert result.last(RedeliveryStamp) is None


def test_with_hash_equal_messages_are_one() -> None:
    effects = Effects()
    bus = messenger(effects, missing_id="hash")

    for body in (b'{"id": "o-1"}', b'{"id": "o-1"}', b'{"id": "o-2"}'):
        bus.dispatch(received_without_id(bus, body))

    assert effects.seen == ["o-1", "o-2"]


def test_with_handle_they_are_handled_each_time() -> None:
    effects = Effects()
    bus = messenger(effects, missing_id="handle")

    for _ in range(2):
        bus.dispatch(received_without_id(bus))

    assert effects.seen == ["o-1", "o-1"]


def test_an_id_that_the_transport_derives_is_stable() -> None:
    effects = Effects()
    bus = messenger(effects)
    codec: Codec = bus.transport("async")._codec
    delivery = Delivery(b'{"id": "o-1"}', {"type": f"{__name__}.Placed"}, Claim(7, 1, "async"))

    for _ in range(2):
        envelope = codec.decode(delivery)
        assert envelope.last(ClaimStamp) is not None
        bus.dispatch(envelope)

    assert effects.seen == ["o-1"]


def test_the_longest_ids_are_told_apart() -> None:
    effects = Effects()
    bus = messenger(effects)
    for number in ("x" * 255, "x" * 254 + "y", "x" * 255):
        send(bus, number)

    consume(bus)

    assert effects.seen == ["o-1", "o-1"]


# --- asynchronous handlers ---


def test_an_async_handler_runs_once_for_each_message() -> None:
    seen: list[str] = []

    async def note(event: Placed) -> None:
        seen.append(event.id)

    bus = messenger(note)
    for number in ("m-1", "m-1", "m-2"):
        send(bus, number)

    consume(bus)

    assert seen == ["o-1", "o-1"]


def test_the_ttl_of_the_class_is_a_timedelta() -> None:
    with pytest.raises(ConfigurationError, match="must be longer"):
        IdempotencyMiddleware(MemoryStore(), timedelta(seconds=-1))
