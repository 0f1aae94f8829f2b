"""One acknowledgement stands for many, and never for one that is not settled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.transports.amqp.acknowledgements import Acknowledgements


def test_what_is_settled_in_order_takes_one_acknowledgement() -> None:
    book = Acknowledgements()

    assert book.settled([1, 2, 3]) == (3, [])
    assert book.settled([5, 4]) == (5, [])


def test_what_lies_behind_an_unsettled_one_is_acknowledged_by_itself() -> None:
    book = Acknowledgements()

    assert book.settled([2, 3]) == (0, [2, 3])
    assert book.settled([1]) == (1, [])
    assert book.settled([4, 6]) == (4, [6])


@given(st.permutations(range(1, 30)), st.lists(st.integers(min_value=1, max_value=5), min_size=29, max_size=29))
def test_in_whatever_order_each_is_acknowledged_once_after_it_was_settled(order: list[int], sizes: list[int]) -> None:
    book, settled, acknowledged = Acknowledgements(), set[int](), set[int]()
    position = 0
    for size in sizes:
        batch = order[position : position + size]
        position += size
        if not batch:
            break
        settled |= set(batch)
        up_to, others = book.settled(batch)
        if up_to:
            assert up_to not in acknowledged
            acknowledged |= set(range(1, up_to + 1))
        assert not set(others) & acknowledged
        acknowledged |= set(others)
        assert acknowledged == settled
