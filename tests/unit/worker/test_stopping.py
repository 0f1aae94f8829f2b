from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from bus.errors import ConfigurationError

DEADLINE = 20.0  # seconds


def test_delayed_messages_do_not_keep_a_worker_that_stops_when_empty(rig):
    rig.send("later", delay=60_000)
    rig.send("now")

    rig.run_until_empty()

    assert (rig.handled, rig.left) == (["now"], ["later"])


def test_what_a_handler_sends_is_handled_before_the_worker_stops_for_emptiness(rig):
    rig.handle = lambda envelope: rig.send("second") if envelope.message.name == "first" else None
    rig.send("first")

    rig.run_until_empty(concurrency=2)

    assert rig.handled == ["first", "second"]


@pytest.mark.parametrize("mode", [{}, {"concurrency": 4}, {"concurrency": 4, "is_async": True}], ids=str)
def test_exactly_as_many_messages_are_handled_as_allowed(rig, mode):
    rig.send(*(str(number) for number in range(30)))
    worker = rig.worker(**mode)
    worker.allow(10)

    worker.run()

    assert len(rig.handled) == 10
    assert len(rig.left) == 20
    assert [each.deliveries for each in rig.transport.driver.get(1000) for each in [each.claim]] == [1] * 20


def test_a_worker_that_may_handle_10_messages_fetches_no_more(rig):
    limits: list[int] = []
    fetch = rig.transport.driver.get

    def get(limit: int) -> Sequence[object]:
        limits.append(limit)
        return fetch(limit)

    rig.transport.driver.get = get
    rig.send(*(str(number) for number in range(200)))
    worker = rig.worker()
    worker.allow(10)

    worker.run()

    assert limits[0] == 1
    assert max(limits) <= 9
    assert len(rig.handled) == 10


def test_stop_before_run_means_that_nothing_is_begun(rig):
    rig.send("a")
    worker = rig.worker()
    worker.stop()

    worker.run()

    assert (rig.handled, rig.left) == ([], ["a"])


def test_stop_after_run_is_harmless(rig):
    worker = rig.worker(stop_when_empty=True)
    worker.run()

    worker.stop()
    worker.stop()


def test_a_second_worker_of_the_process_on_one_transport_is_refused_and_harms_nothing(rig, running):
    begun, done = threading.Event(), threading.Event()

    def work(envelope):
        begun.set()
        assert done.wait(DEADLINE)

    rig.handle = work
    rig.send("a")
    with running(rig.worker()):
        assert begun.wait(DEADLINE)
        with pytest.raises(ConfigurationError, match='reads the transport "async"'):
            rig.run_until_empty()
        done.set()
    rig.run_until_empty()

    assert rig.handled == ["a"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_stop_finishes_what_runs_and_gives_back_what_was_fetched(rig, concurrency):
    worker = rig.worker(concurrency=concurrency, fetch_size=10)
    rig.handle = lambda envelope: worker.stop() if envelope.message.name == "5" else None
    rig.send(*(str(number) for number in range(20)))

    worker.run()

    assert "5" in rig.handled
    assert len(rig.handled) <= 5 + concurrency
    assert sorted(rig.handled + rig.left, key=int) == [str(number) for number in range(20)]
    assert [each.claim.deliveries for each in rig.transport.driver.get(1000)] == [1] * len(rig.left)


def test_stop_waits_for_a_handler_on_another_thread(rig, running):
    began, go_on = threading.Event(), threading.Event()
    rig.handle = lambda envelope: (began.set(), go_on.wait(DEADLINE))
    rig.send("a")
    worker = rig.worker(concurrency=2)

    with running(worker):
        assert began.wait(DEADLINE)
        assert [each.message_type.rpartition(".")[2] for each in worker.running()] == ["Job"]
        worker.stop()
        go_on.set()

    assert (rig.handled, rig.left, worker.running()) == (["a"], [], [])


@pytest.mark.parametrize("mode", [{}, {"concurrency": 3}, {"concurrency": 3, "is_async": True}], ids=str)
def test_stopping_at_any_moment_loses_nothing_and_handles_nothing_twice(mode, make_rig, eventually):
    for round_number in range(25):
        rig = make_rig()
        rig.send(*(str(number) for number in range(60)))
        worker = rig.worker(**mode)
        thread = threading.Thread(target=worker.run)
        thread.start()

        stoppers = [threading.Thread(target=worker.stop) for _ in range(3)]
        eventually(lambda rig=rig, enough=round_number * 2: len(rig.handled) >= enough)
        for stopper in stoppers:
            stopper.start()
        thread.join(DEADLINE)

        assert not thread.is_alive()
        assert sorted(rig.handled + rig.left, key=int) == [str(number) for number in range(60)]


@pytest.mark.parametrize("mode", [{}, {"concurrency": 3}, {"concurrency": 3, "is_async": True}], ids=str)
def test_no_wake_up_is_lost(rig, mode, running, eventually):
    # Each message is sent when the one before is handled; a single lost wake-up would cost the whole pause.
    with running(rig.worker(sleep=600.0, **mode)):
        for number in range(300):
            rig.send(str(number))
            eventually(lambda number=number: len(rig.handled) == number + 1)
