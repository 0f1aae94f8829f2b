from __future__ import annotations

from dataclasses import dataclass

from bus import Messenger, MessengerConfig, RedispatchMessage, TransportConfig
from bus.envelope import Envelope
from bus.inspection import describe_buses
from bus.stamps import (
    CausationStamp,
    DelayStamp,
    HandledStamp,
    MessageIdStamp,
    ReceivedStamp,
    SentStamp,
    TransportNamesStamp,
)
from bus.transports.base import Outgoing


@dataclass(frozen=True)
class Placed:
    id: str


def on_placed(event: Placed) -> str:
    return f"handled {event.id}"


def make(**routing: str) -> Messenger:
    names = ("first", "second", "third")
    config = MessengerConfig(
        transports={name: TransportConfig(dsn="in-memory://") for name in names},
        routing={key: (value,) for key, value in routing.items()},
    )
    return Messenger(config, handlers=[on_placed])


def sent(messenger: Messenger, name: str) -> list[Outgoing]:
    return messenger.transports[name].driver.sent  # type: ignore[attr-defined]


def test_the_message_inside_goes_to_the_named_transports_whatever_the_routing_says() -> None:
    messenger = make(**{f"{__name__}.Placed": "third"})

    messenger.bus.dispatch(RedispatchMessage(Placed("o-1"), ["first", "second"]))

    assert [len(sent(messenger, name)) for name in ("first", "second", "third")] == [1, 1, 0]


def test_a_route_for_everything_leaves_it_where_it_is_dispatched() -> None:
    messenger = make(**{"*": "third"})

    envelope = messenger.bus.dispatch(RedispatchMessage(Placed("o-1"), "first"))

    assert envelope.last(SentStamp) is None
    assert [len(sent(messenger, name)) for name in ("first", "third")] == [1, 0]


def test_without_a_transport_it_is_handled_here_and_its_result_is_returned() -> None:
    messenger = make(**{f"{__name__}.Placed": "third"})

    assert messenger.handle(RedispatchMessage(Placed("o-1"))) == "handled o-1"


def test_the_envelope_keeps_its_stamps_and_its_id() -> None:
    messenger = make()
    inside = Envelope(Placed("o-1"), (MessageIdStamp("the-id"), DelayStamp(0)))

    messenger.bus.dispatch(RedispatchMessage(inside, "first"))

    (received,) = messenger.transports["first"].get(1)
    assert received.last(MessageIdStamp) == MessageIdStamp("the-id")
    assert received.last(DelayStamp) == DelayStamp(0)


def test_a_message_that_was_received_is_sent_on() -> None:
    messenger = make()
    messenger.bus.dispatch(Placed("o-1"), [TransportNamesStamp("first")])
    (received,) = messenger.transports["first"].get(1)
    assert received.last(ReceivedStamp) is not None

    messenger.bus.dispatch(RedispatchMessage(received, "second"))

    assert len(sent(messenger, "second")) == 1


def test_what_it_dispatches_is_caused_by_it() -> None:
    messenger = make()

    outer = messenger.bus.dispatch(RedispatchMessage(Placed("o-1"), "first"))

    (received,) = messenger.transports["first"].get(1)
    assert received.last(CausationStamp).id == outer.last(MessageIdStamp).id
    assert outer.last(HandledStamp) is not None


def test_it_is_not_listed_among_the_messages_of_the_application() -> None:
    (bus,) = describe_buses(make())

    assert [each.name for each in bus.messages] == [f"{__name__}.Placed"]
