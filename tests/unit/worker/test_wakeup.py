from __future__ import annotations

import threading
import time

from bus.wakeup import WakeUp


def test_a_ring_before_the_sleep_ends_it_at_once():
    wake_up = WakeUp()
    wake_up.ring()
    began = time.monotonic()

    wake_up.sleep(30)

    assert time.monotonic() - began < 5


def test_a_ring_ends_a_sleep():
    wake_up = WakeUp()
    sleeper = threading.Thread(target=wake_up.sleep, args=(30,))
    sleeper.start()

    wake_up.ring()
    sleeper.join(5)

    assert not sleeper.is_alive()


def test_a_ring_between_two_sleeps_ends_the_second_one():
    for _ in range(10):
        wake_up = WakeUp()
        awake, go_on = threading.Event(), threading.Event()

        def sleep_twice(wake_up=wake_up, awake=awake, go_on=go_on) -> None:
            wake_up.sleep(30)
            awake.set()
            go_on.wait(30)
            wake_up.sleep(30)

        sleeper = threading.Thread(target=sleep_twice)
        sleeper.start()
        threading.Event().wait(0.002)  # most probably it sleeps by now
        wake_up.ring()
        assert awake.wait(5)

        wake_up.ring()
        go_on.set()
        sleeper.join(5)

        assert not sleeper.is_alive()


def test_many_rings_make_one_wake_up():
    wake_up = WakeUp()
    for _ in range(1000):
        wake_up.ring()

    wake_up.sleep(30)

    assert wake_up._queue.empty()


def test_a_ring_from_a_signal_handler_is_heard_even_between_the_two_steps_of_a_ring():
    wake_up = WakeUp()
    wake_up._rung = True

    wake_up.ring_from_signal_handler()

    began = time.monotonic()
    wake_up.sleep(30)
    assert time.monotonic() - began < 5


def test_no_ring_is_ever_lost():
    wake_up = WakeUp()
    done = [0]
    total = 20_000

    def produce() -> None:
        for _ in range(total // 2):
            with lock:
                done[0] += 1
            wake_up.ring()

    lock = threading.Lock()
    producers = [threading.Thread(target=produce) for _ in range(2)]
    for producer in producers:
        producer.start()
    began = time.monotonic()
    while done[0] < total:
        wake_up.sleep(20)
    for producer in producers:
        producer.join()

    # One lost ring would have cost a whole sleep.
    assert time.monotonic() - began < 15
