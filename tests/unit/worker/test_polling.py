from __future__ import annotations

import pytest

from bus.polling import Polling


def pauses_while_empty(polling: Polling, count: int) -> list[float]:
    now, pauses = 0.0, []
    for _ in range(count):
        polling.asked()
        polling.answered(now, 0, full=False)
        pauses.append(round(polling.wait(now), 6))
        now += polling.wait(now)
        assert polling.is_due(now)
    return pauses


def test_a_delayed_message_shortens_the_pause_and_never_lengthens_it():
    polling = Polling(1.0)

    polling.answered(10.0, 0, full=False, next_due=0.03)
    assert polling.wait(10.0) == pytest.approx(0.03)

    polling.answered(11.0, 0, full=False, next_due=3600.0)
    assert polling.wait(11.0) <= 1.0


def test_a_receiver_is_asked_at_the_start():
    assert Polling(1.0).is_due(0.0)


def test_an_empty_receiver_is_asked_after_100_ms_doubling_to_the_longest_pause():
    assert pauses_while_empty(Polling(1.0), 6) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_the_longest_pause_bounds_the_first_one_too():
    assert pauses_while_empty(Polling(0.05), 3) == [0.05, 0.05, 0.05]


def test_after_a_message_the_pauses_begin_anew():
    polling = Polling(1.0)
    pauses_while_empty(polling, 5)

    polling.answered(10.0, 1, full=False)

    assert polling.wait(10.0) == pytest.approx(0.1)


def test_after_a_full_answer_it_is_asked_at_once():
    polling = Polling(1.0)

    polling.answered(10.0, 50, full=True)

    assert polling.is_due(10.0)
    assert polling.wait(10.0) == 0.0


def test_a_receiver_that_can_wake_is_asked_when_it_does():
    polling = Polling(1.0)
    polling.can_wake = True
    polling.asked()
    polling.answered(0.0, 0, full=False)
    assert not polling.is_due(0.9)

    polling.wake()

    assert polling.is_due(0.0)
    assert polling.wait(0.0) == 0.0


def test_a_receiver_that_can_wake_is_asked_now_and_then_all_the_same():
    polling = Polling(1.0)
    polling.can_wake = True
    polling.asked()

    polling.answered(0.0, 0, full=False)

    assert polling.is_due(1.0)


def test_a_wake_up_during_the_question_counts_for_the_next_one():
    polling = Polling(1.0)
    polling.asked()
    polling.wake()
    polling.answered(0.0, 0, full=False)

    assert polling.is_due(0.0)


def test_after_errors_the_pauses_double_from_half_a_second_to_thirty_with_jitter():
    polling = Polling(1.0)
    now = 0.0

    for longest in (0.5, 1, 2, 4, 8, 16, 30, 30):
        pause = polling.failed(now)
        assert 0.75 * longest <= pause <= longest
        assert polling.wait(now) == pytest.approx(pause)
        now += pause


def test_a_thousand_errors_in_a_row_do_not_overflow():
    polling = Polling(1.0)

    assert max(polling.failed(0.0) for _ in range(5000)) <= 30.0


def test_after_an_error_not_even_a_wake_up_shortens_the_wait():
    polling = Polling(1.0)
    pause = polling.failed(0.0)

    polling.wake()

    assert not polling.is_due(pause / 2)
    assert polling.is_due(pause + 0.001)


def test_the_first_answer_after_an_error_is_told_apart():
    polling = Polling(1.0)
    polling.failed(0.0)
    assert polling.failing

    assert polling.answered(1.0, 0, full=False) is True
    assert polling.answered(2.0, 0, full=False) is False
    assert not polling.failing
