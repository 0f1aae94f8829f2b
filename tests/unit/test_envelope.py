from __future__ import annotations

import copy
import pickle

import pytest

from bus.envelope import Envelope
from bus.stamps import BusNameStamp, DelayStamp, MessageIdStamp, Stamp


class SpecialDelayStamp(DelayStamp):
    __slots__ = ()


def test_an_envelope_holds_a_message_and_its_stamps_in_the_order_in_which_they_were_added() -> None:
    envelope = Envelope("message").with_(DelayStamp(1), BusNameStamp("b")).with_(DelayStamp(2))
    assert envelope.message == "message"
    assert envelope.stamps == (DelayStamp(1), BusNameStamp("b"), DelayStamp(2))


def test_every_change_makes_a_new_envelope() -> None:
    envelope = Envelope("message", (DelayStamp(1),))
    envelope.with_(DelayStamp(2))
    envelope.without(DelayStamp)
    assert envelope == Envelope("message", (DelayStamp(1),))


@pytest.mark.parametrize("name", ["message", "stamps", "other"])
def test_an_envelope_cannot_be_changed(name: str) -> None:
    envelope = Envelope("message")
    with pytest.raises(AttributeError):
        setattr(envelope, name, ())
    with pytest.raises(AttributeError):
        delattr(envelope, name)


def test_the_last_stamp_of_a_type_counts() -> None:
    envelope = Envelope("message", (DelayStamp(1), DelayStamp(2), BusNameStamp("b")))
    assert envelope.last(DelayStamp) == DelayStamp(2)
    assert envelope.last(MessageIdStamp) is None


def test_all_stamps_of_a_type_come_in_their_order() -> None:
    envelope = Envelope("message", (DelayStamp(1), BusNameStamp("b"), DelayStamp(2)))
    assert envelope.all(DelayStamp) == (DelayStamp(1), DelayStamp(2))
    assert envelope.all(MessageIdStamp) == ()


def test_a_type_means_exactly_this_type() -> None:
    special = SpecialDelayStamp(1)
    envelope = Envelope("message", (special,))
    assert envelope.last(DelayStamp) is None
    assert envelope.all(DelayStamp) == ()
    assert envelope.without(DelayStamp).stamps == (special,)
    assert envelope.last(SpecialDelayStamp) is special


def test_several_types_can_be_left_out_at_once() -> None:
    envelope = Envelope("message", (DelayStamp(1), BusNameStamp("b"), MessageIdStamp("m")))
    assert envelope.without(DelayStamp, BusNameStamp, Stamp).stamps == (MessageIdStamp("m"),)


def test_wrapping_a_message_stamps_it() -> None:
    assert Envelope.wrap("message", DelayStamp(1)) == Envelope("message", (DelayStamp(1),))


def test_wrapping_an_envelope_adds_to_it() -> None:
    envelope = Envelope("message", (DelayStamp(1),))
    assert Envelope.wrap(envelope, DelayStamp(2)) == Envelope("message", (DelayStamp(1), DelayStamp(2)))
    assert Envelope.wrap(envelope) is envelope


def test_envelopes_are_equal_when_message_and_stamps_are() -> None:
    assert Envelope("a", (DelayStamp(1),)) == Envelope("a", (DelayStamp(1),))
    assert Envelope("a", (DelayStamp(1),)) != Envelope("a", (DelayStamp(2),))
    assert Envelope("a") != Envelope("b")
    assert Envelope("a") != "a"


def test_an_envelope_is_no_key_because_its_message_may_change() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Envelope("a"))


def test_an_envelope_shows_what_it_holds() -> None:
    assert repr(Envelope("a", (DelayStamp(1),))) == "Envelope('a', (DelayStamp(delay=1),))"


def test_a_copied_envelope_is_equal() -> None:
    envelope = Envelope(["a"], (DelayStamp(1),))
    assert copy.copy(envelope) == envelope
    assert copy.deepcopy(envelope) == envelope
    assert pickle.loads(pickle.dumps(envelope)) == envelope
