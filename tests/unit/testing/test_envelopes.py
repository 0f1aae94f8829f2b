"""Assertions on messages, and what they say when they fail."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bus import DelayStamp, Envelope
from bus.testing import Envelopes


@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@dataclass(frozen=True)
class InvoiceDue:
    invoice_id: str


def dispatched(*messages: object) -> Envelopes:
    return Envelopes("dispatched", [Envelope(each) for each in messages])


@pytest.fixture
def three() -> Envelopes:
    return dispatched(OrderPlaced("o-1"), InvoiceDue("i-1"), OrderPlaced("o-2"))


def test_a_class_is_contained_when_a_message_is_of_it(three: Envelopes) -> None:
    assert three.assert_contains(OrderPlaced).message == OrderPlaced("o-1")


def test_a_parent_class_is_contained_too(three: Envelopes) -> None:
    three.assert_contains(object, times=3)


def test_a_message_is_contained_when_one_equals_it(three: Envelopes) -> None:
    three.assert_contains(OrderPlaced("o-2"))


def test_a_condition_chooses_among_the_messages_of_a_class(three: Envelopes) -> None:
    found = three.assert_contains(OrderPlaced, lambda event: event.order_id.endswith("2"), times=1)

    assert found.message == OrderPlaced("o-2")


def test_the_stamps_of_what_was_found_can_be_reached() -> None:
    envelopes = Envelopes("dispatched", [Envelope(OrderPlaced("o-1"), (DelayStamp(500),))])

    assert envelopes.assert_contains(OrderPlaced).last(DelayStamp) == DelayStamp(500)


def test_what_is_missing_is_told_with_what_was_there(three: Envelopes) -> None:
    with pytest.raises(AssertionError) as failed:
        three.assert_contains(OrderPlaced("o-3"))

    assert str(failed.value) == (
        "OrderPlaced(order_id='o-3') should have been dispatched at least once, not never; what was dispatched:\n"
        "  1. OrderPlaced(order_id='o-1')\n"
        "  2. InvoiceDue(invoice_id='i-1')\n"
        "  3. OrderPlaced(order_id='o-2')"
    )


def test_a_condition_that_no_message_meets_is_told() -> None:
    with pytest.raises(AssertionError, match="OrderPlaced that meets the condition should have been dispatched"):
        dispatched(OrderPlaced("o-1")).assert_contains(OrderPlaced, lambda event: event.order_id == "o-9")


def test_another_number_of_messages_is_told(three: Envelopes) -> None:
    with pytest.raises(AssertionError, match="OrderPlaced should have been dispatched once, not twice; what was"):
        three.assert_contains(OrderPlaced, times=1)


def test_a_number_that_asks_for_none_is_refused(three: Envelopes) -> None:
    with pytest.raises(ValueError, match="assert_lacks checks that there is no such message"):
        three.assert_contains(InvoiceDue, times=0)


def test_nothing_at_all_is_told() -> None:
    with pytest.raises(AssertionError, match=r"not never; nothing was dispatched$"):
        dispatched().assert_contains(OrderPlaced)


def test_what_is_not_there_is_lacking(three: Envelopes) -> None:
    three.assert_lacks(OrderPlaced("o-3"))
    three.assert_lacks(OrderPlaced, lambda event: event.order_id == "o-3")
    three.assert_lacks(str)


def test_what_should_not_be_there_is_told(three: Envelopes) -> None:
    with pytest.raises(AssertionError, match="OrderPlaced should not have been dispatched, but was, twice; what was"):
        three.assert_lacks(OrderPlaced)


def test_exactly_means_these_in_this_order_and_no_others(three: Envelopes) -> None:
    three.assert_exactly(OrderPlaced("o-1"), InvoiceDue, OrderPlaced)

    for wrong in [(OrderPlaced, InvoiceDue), (InvoiceDue, OrderPlaced, OrderPlaced), (OrderPlaced,) * 3]:
        with pytest.raises(AssertionError, match=r"should have been dispatched; what was dispatched:\n  1\. "):
            three.assert_exactly(*wrong)


def test_empty_means_no_message(three: Envelopes) -> None:
    dispatched().assert_empty()

    with pytest.raises(AssertionError, match="exactly nothing should have been dispatched; what was dispatched:"):
        three.assert_empty()


def test_long_lists_and_long_messages_are_cut() -> None:
    with pytest.raises(AssertionError) as failed:
        dispatched(*[OrderPlaced("x" * 1000)] * 50).assert_empty()

    lines = str(failed.value).splitlines()
    assert lines[-1] == "  ... and 30 more"
    assert len(lines) == 22
    assert max(map(len, lines)) < 250


def test_messages_are_listed_without_their_envelopes(three: Envelopes) -> None:
    assert three.messages(InvoiceDue) == [InvoiceDue("i-1")]
    assert [type(each) for each in three.messages()] == [OrderPlaced, InvoiceDue, OrderPlaced]


def test_a_part_answers_as_the_whole_does(three: Envelopes) -> None:
    three[1:].assert_exactly(InvoiceDue, OrderPlaced)
    assert three[0].message == OrderPlaced("o-1")
    assert (len(three), three[-1].message) == (3, OrderPlaced("o-2"))
