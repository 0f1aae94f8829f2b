from __future__ import annotations

from bus.window import Window


def an_open_window(concurrency: int = 1, fetch_size: int | None = None) -> Window:
    window = Window(concurrency, fetch_size)
    window.arrived(1, fresh=True)
    return window


def test_at_the_start_one_message_is_held_at_a_time():
    assert Window(10).capacity == 1


def test_a_suspect_does_not_open_the_window():
    window = Window(10)

    window.arrived(1, fresh=False)
    window.ended(0.001)

    assert window.capacity == 1


def test_a_fresh_message_opens_the_window_to_one_more_than_is_handled_at_once():
    assert an_open_window(concurrency=4).capacity == 5


def test_the_window_holds_100_ms_of_work():
    window = an_open_window()

    window.ended(0.005)

    assert window.capacity == 20


def test_the_window_holds_100_ms_of_work_for_each_that_is_handled_at_once():
    window = an_open_window(concurrency=4)

    window.ended(0.020)

    assert window.capacity == 20


def test_slow_handlers_get_one_more_than_is_handled_at_once():
    window = an_open_window(concurrency=2)

    window.ended(60.0)

    assert window.capacity == 3


def test_fast_handlers_get_no_more_than_100():
    window = an_open_window()

    window.ended(0.0)
    window.ended(0.0)

    assert window.capacity == 100


def test_a_concurrency_above_100_is_still_fed():
    assert an_open_window(concurrency=500).capacity == 501


def test_the_window_follows_the_recent_handling_time():
    window = an_open_window()
    window.ended(10.0)
    assert window.capacity == 2

    for _ in range(60):
        window.ended(0.002)

    assert 45 <= window.capacity <= 50


def test_a_given_fetch_size_stays():
    window = an_open_window(fetch_size=7)

    window.ended(60.0)

    assert window.capacity == 7


def test_what_arrived_and_has_not_ended_is_held():
    window = an_open_window(fetch_size=7)
    window.arrived(4, fresh=True)

    window.ended(0.1)
    window.ended(None)

    assert window.held == 3


def test_a_message_that_was_taken_away_says_nothing_about_the_handling_time():
    window = an_open_window()
    window.ended(0.010)

    window.ended(None)

    assert window.capacity == 10


def test_after_a_lost_connection_one_message_is_held_until_a_fresh_one_is_seen():
    window = an_open_window(concurrency=4)

    window.suspect()
    assert window.capacity == 1
    window.ended(0.001)
    assert window.capacity == 1
    window.arrived(1, fresh=True)
    assert window.capacity == 100
