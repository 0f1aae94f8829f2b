from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from bus.clock import SystemClock
from bus.errors import ConnectionLostError, DecodingError, SendRefused, SendUnknown, TransportError
from bus.handlers import HandlersLocator
from bus.json_lines import DispatchedLines, JsonLines, RefusedLine
from bus.message_bus import MessageBus
from bus.messages import MessageTypes, message
from bus.middleware.identity import IdentityMiddleware
from bus.middleware.send import SendMiddleware
from bus.routing import Routing
from bus.serializer import JsonSerializer
from bus.stamps import DelayStamp, PartitionKeyStamp
from bus.transports.base import Outgoing, Sent
from bus.transports.memory import MemoryDriver
from bus.transports.transport import Transport


@message("shop.order_placed", aliases=["OrderPlaced"])
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@message("shop.ping")
@dataclass(frozen=True)
class Ping:
    """Has no transport."""


class Driver(MemoryDriver):
    """Keeps messages, except those that ``answer`` has an error for."""

    def __init__(self) -> None:
        super().__init__("async", SystemClock())
        self.batches: list[int] = []
        self.errors: dict[str, TransportError] = {}

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:  # type: ignore[override]
        self.batches.append(len(batch))
        results: list[Sent | TransportError] = []
        for outgoing in batch:
            error = self.errors.get(json.loads(outgoing.body)["order_id"])
            results.append(error if error is not None else super().send([outgoing])[0])
        return results


def locked() -> SendRefused:
    refused = SendRefused("not stored")
    refused.__cause__ = ConnectionLostError("locked")
    return refused


class Shop:
    def __init__(self) -> None:
        types = MessageTypes([OrderPlaced, Ping])
        self.driver = Driver()
        transport = Transport("async", self.driver, JsonSerializer(types))
        routing = Routing({"shop.order_placed": ("async",)}, types, types.by_name)
        stack = [IdentityMiddleware(), SendMiddleware(routing, {"async": transport})]
        self.lines = JsonLines(MessageBus("default", stack, HandlersLocator([], "default")), types)

    def dispatch(self, text: str, type_name: str | None = None) -> list[DispatchedLines]:
        return list(self.lines.dispatch(io.BytesIO(text.encode()), type_name))

    def sent_orders(self) -> list[str]:
        return [json.loads(each.body)["order_id"] for each in self.driver.sent]


@pytest.fixture
def shop() -> Shop:
    return Shop()


def orders(first: int, last: int) -> str:
    return "".join(f'{{"order_id": "o-{number}"}}\n' for number in range(first, last + 1))


@pytest.mark.parametrize("name", ["shop.order_placed", "OrderPlaced", f"{__name__}.OrderPlaced"])
def test_a_message_is_read_under_each_of_its_names(shop: Shop, name: str) -> None:
    assert shop.lines.read(name, b'{"order_id": "o-1"}') == OrderPlaced("o-1")


def test_a_text_without_a_given_type_names_its_own(shop: Shop) -> None:
    text = b'{"type": "shop.order_placed", "body": {"order_id": "o-1"}}'

    assert shop.lines.read(None, text) == OrderPlaced("o-1")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"type": "shop.order_placed"}',
        b'{"type": 1, "body": {}}',
        b'{"type": "shop.order_placed", "body": {"order_id": "o-1"}, "extra": 1}',
        b'{"type": "shop.unknown", "body": {}}',
        b'{"type": "shop.order_placed", "body": {"order_id": 1}}',
        b'{"type": "shop.order_placed", "body": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_text_that_is_no_message_is_refused(shop: Shop, text: bytes) -> None:
    with pytest.raises(DecodingError):
        shop.lines.read(None, text)


def test_every_line_is_dispatched_in_order_and_in_batches(shop: Shop) -> None:
    batches = shop.dispatch(orders(1, 250), "shop.order_placed")

    assert shop.sent_orders() == [f"o-{number}" for number in range(1, 251)]
    assert sum(len(batch.envelopes) for batch in batches) == 250
    assert shop.driver.batches == [100, 100, 50]


def test_a_bad_line_is_reported_by_its_number_and_stops_no_other(shop: Shop) -> None:
    text = orders(1, 1) + '{"order_id": \n' + "\n" + orders(4, 4) + '{"total": 1}\n'

    (batch,) = shop.dispatch(text, "shop.order_placed")

    assert shop.sent_orders() == ["o-1", "o-4"]
    assert [line.number for line in batch.refused] == [2, 5]


def test_the_last_line_needs_no_line_end(shop: Shop) -> None:
    batches = shop.dispatch(orders(1, 1) + '{"order_id": "o-2"}\n{"order_id"', "shop.order_placed")

    assert shop.sent_orders() == ["o-1", "o-2"]
    assert [line.number for batch in batches for line in batch.refused] == [3]


def test_each_line_may_have_a_type_of_its_own(shop: Shop) -> None:
    text = '{"type": "shop.order_placed", "body": {"order_id": "o-1"}}\n{"type": "shop.ping", "body": {}}\n'

    (batch,) = shop.dispatch(text)

    assert [type(envelope.message) for envelope in batch.envelopes] == [OrderPlaced, Ping]
    assert batch.handled_here == 1


def test_a_message_that_the_transport_refuses_stops_no_other(shop: Shop) -> None:
    shop.driver.errors["o-2"] = SendRefused("too large")

    (batch,) = shop.dispatch(orders(1, 3), "shop.order_placed")

    assert shop.sent_orders() == ["o-1", "o-3"]
    assert batch.refused == [RefusedLine(2, "SendRefused: too large")]
    assert batch.outage is None


@pytest.mark.parametrize("error", [ConnectionLostError("no server"), SendUnknown("no answer"), locked()])
def test_a_transport_that_cannot_be_reached_ends_it_after_its_batch(shop: Shop, error: TransportError) -> None:
    shop.driver.errors["o-2"] = error

    (batch,) = shop.dispatch(orders(1, 250), "shop.order_placed")

    assert batch.outage is error
    assert len(shop.sent_orders()) == 99


def test_stamps_go_with_every_message(shop: Shop) -> None:
    stream = io.BytesIO(orders(1, 2).encode())

    list(shop.lines.dispatch(stream, "shop.order_placed", [DelayStamp(5000), PartitionKeyStamp("k")]))

    assert [(each.delay_ms, each.partition_key) for each in shop.driver.sent] == [(5000, "k")] * 2


def test_a_line_is_dispatched_before_a_slow_pipe_brings_the_next(shop: Shop) -> None:
    reading, writing = os.pipe()
    arrived = threading.Event()
    shop.driver.on_arrival(arrived.set)
    arrived.clear()
    with os.fdopen(reading, "rb") as stream:
        thread = threading.Thread(target=lambda: list(shop.lines.dispatch(stream, "shop.order_placed")))
        thread.start()
        os.write(writing, orders(1, 1).encode())
        dispatched_early = arrived.wait(10)
        os.close(writing)
        thread.join(10)

    assert dispatched_early
    assert shop.sent_orders() == ["o-1"]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_lines_are_put_together_whatever_the_pipe_cuts(shop: Shop, size: int) -> None:
    class Pieces(io.BytesIO):
        def read1(self, _: int | None = -1, /) -> bytes:
            return super().read1(size)

    batches = list(shop.lines.dispatch(Pieces(orders(1, 20).encode()), "shop.order_placed"))

    assert shop.sent_orders() == [f"o-{number}" for number in range(1, 21)]
    assert [line for batch in batches for line in batch.refused] == []
