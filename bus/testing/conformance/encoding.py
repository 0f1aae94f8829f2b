"""What a transport makes of a driver: messages and stamps, and bytes that are none."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from bus import headers
from bus.envelope import Envelope
from bus.messages import MessageTypes, UndecodableMessage, message, wire_name
from bus.serializer import JsonSerializer
from bus.stamps import (
    BusNameStamp,
    CausationStamp,
    CorrelationStamp,
    ErrorDetailsStamp,
    MessageIdStamp,
    RedeliveryStamp,
    Stamp,
    TransportNamesStamp,
    UnknownStamps,
)
from bus.testing.conformance.features import DriverSuite
from bus.testing.conformance.traffic import eventually, outgoing
from bus.transports.base import Driver
from bus.transports.transport import Transport


@message("conformance.greeting")
@dataclass(frozen=True)
class Greeting:
    """A message."""

    text: str
    written_at: datetime


GREETING = Greeting('Grüße 你好 😀 "quoted"', datetime(2026, 1, 2, 3, 4, 5, 678900, UTC))
STAMPS: tuple[Stamp, ...] = (
    MessageIdStamp("0190b5f8-0000-7000-8000-000000000001"),
    BusNameStamp("command.bus"),
    CorrelationStamp("0190b5f8-0000-7000-8000-000000000002"),
    CausationStamp("0190b5f8-0000-7000-8000-000000000003"),
    ErrorDetailsStamp("shop.Übel", 0, "nothing\nworks: \U0001f600"),
    UnknownStamps({"X-Message-Stamp-App\\Stamp\\Foreign": '[{"a":1}]'}),
)


class Encoding(DriverSuite):
    """Envelopes through the driver."""

    @pytest.fixture
    def transport(self, driver: Driver) -> Iterator[Transport]:
        """Return a transport over the driver."""
        types = MessageTypes()
        types.add(Greeting)
        transport = Transport("orders", driver, JsonSerializer(types))
        yield transport
        transport.close()

    def test_a_message_arrives_equal_with_its_stamps(self, transport: Transport) -> None:
        transport.send(Envelope(GREETING, (*STAMPS, TransportNamesStamp("orders"))))

        (received,) = _receive(transport, 1)

        assert received.message == GREETING
        assert [received.last(type(each)) for each in STAMPS] == list(STAMPS)
        assert received.last(TransportNamesStamp) is None

    def test_a_retry_brings_its_stamps_and_keeps_the_id(self, transport: Transport) -> None:
        transport.send(Envelope(GREETING, STAMPS))
        (received,) = _receive(transport, 1)

        transport.requeue(received.with_(RedeliveryStamp(2)), 0)
        transport.flush()

        (again,) = _receive(transport, 1)
        redelivery = again.last(RedeliveryStamp)
        assert redelivery is not None
        assert redelivery.retry_count == 2
        assert (again.message, again.last(MessageIdStamp)) == (GREETING, STAMPS[0])

    @pytest.mark.parametrize(
        ("body", "name"),
        [
            pytest.param(b'{"text": "to', wire_name(Greeting), id="torn"),
            pytest.param(b"\xff\0\xfe", wire_name(Greeting), id="no text"),
            pytest.param(b'{"text": "x"}', wire_name(Greeting), id="incomplete"),
            pytest.param(b"{}", "conformance.unknown", id="unknown type"),
        ],
    )
    def test_what_cannot_be_decoded_comes_with_its_bytes_and_holds_up_nothing(
        self, transport: Transport, body: bytes, name: str
    ) -> None:
        sent = {headers.TYPE: name, headers.CONTENT_TYPE: headers.JSON}
        transport.driver.send([outgoing(body, headers=sent)])
        transport.send(Envelope(GREETING))

        received = _receive(transport, 2)

        (undecodable,) = (each.message for each in received if isinstance(each.message, UndecodableMessage))
        assert (undecodable.body, dict(undecodable.headers)) == (body, sent)
        assert [each.message for each in received if each.message is not undecodable] == [GREETING]


def _receive(transport: Transport, count: int) -> list[Envelope]:
    received: list[Envelope] = []

    def enough() -> bool:
        received.extend(transport.get(count - len(received)))
        return len(received) >= count

    eventually(enough, f"{count} messages should have come")
    return received
