"""What was delivered before and never settled may be what killed its worker."""

from __future__ import annotations

import threading

import pytest

from bus.transports.base import Counts

DEADLINE = 20.0  # seconds


@pytest.mark.parametrize("mode", [{}, {"concurrency": 4}, {"concurrency": 4, "is_async": True}], ids=str)
def test_a_suspect_is_handled_alone_in_the_process(make_rig, mode):
    rig = make_rig("first", "second")
    inside, lock, company = set(), threading.Lock(), []

    def handle(envelope):
        name = envelope.message.name
        with lock:
            inside.add(name)
        threading.Event().wait(0.002)
        with lock:
            company.extend((name, other) for other in inside if other != name)
            inside.remove(name)

    rig.handle = handle
    rig.send(*(f"a{number}" for number in range(20)), "suspect", *(f"b{number}" for number in range(20)), to="first")
    rig.send(*(f"c{number}" for number in range(20)), to="second")
    rig.was_delivered("suspect", 1, by="first")

    rig.run_until_empty(**mode)

    assert len(rig.handled) == 61
    assert [pair for pair in company if "suspect" in pair] == []


@pytest.mark.parametrize("mode", [{}, {"concurrency": 4}, {"concurrency": 4, "is_async": True}], ids=str)
def test_nothing_else_is_held_or_unsettled_while_a_suspect_is_handled(make_rig, mode):
    rig = make_rig("first", "second")
    seen = []

    def handle(envelope):
        if envelope.message.name != "suspect":
            return
        rig.send("new", to="second")
        for _ in range(10):
            threading.Event().wait(0.005)
            seen.append((rig.transports["first"].counts(), rig.transports["second"].counts()))

    rig.handle = handle
    rig.send("a0", "a1", "a2", "suspect", "a3", to="first")
    rig.send("c0", "c1", to="second")
    rig.was_delivered("suspect", 1, by="first")

    rig.run_until_empty(**mode)

    assert {first.in_flight for first, _ in seen} == {1}
    assert {second.in_flight for _, second in seen} == {0}


def test_what_was_handled_before_a_suspect_is_settled_before_it_begins(make_rig):
    rig = make_rig("first", "second")
    counts = []

    def handle(envelope):
        if envelope.message.name == "c1":
            rig.send("suspect", to="first")
            rig.was_delivered("suspect", 1, by="first")
        if envelope.message.name == "suspect":
            counts.append(rig.transports["second"].counts())

    rig.handle = handle
    rig.send(*(f"c{number}" for number in range(9)), to="second")

    rig.run_until_empty(fetch_size=9)

    assert [each.in_flight for each in counts] == [0]


def test_a_worker_begins_with_one_message_at_a_time_until_it_sees_a_fresh_one(rig):
    held = []
    rig.handle = lambda envelope: held.append(rig.transport.counts().in_flight)
    rig.send(*(f"s{number}" for number in range(3)), *(f"f{number}" for number in range(5)))
    for number in range(3):
        rig.was_delivered(f"s{number}", 1)

    rig.run_until_empty(fetch_size=5)

    # Three suspects and the first fresh message are held alone; with it the window opens.
    assert held[:3] == [1, 1, 1]
    assert held[3] <= 2
    assert max(held[4:]) > 1


def test_suspects_do_not_wait_for_the_next_poll(rig, eventually, running):
    names = [f"s{number}" for number in range(40)]
    rig.send("fresh", *names)
    for name in names:
        rig.was_delivered(name, 1)

    with running(rig.worker(sleep=600.0)):
        eventually(lambda: len(rig.handled) == 41)


def test_what_was_delivered_too_often_is_not_handled_again(rig):
    rig.send("killer", "innocent")
    rig.was_delivered("killer", 3)

    rig.run_until_empty()

    assert rig.handled == ["innocent"]
    assert rig.transport.counts() == Counts(ready=0, delayed=0, in_flight=0, parked=0)
    assert len(rig.transport.driver.rejected) == 1


def test_a_worker_that_waits_for_a_suspect_does_not_spin(rig, eventually, running):
    began, go_on = threading.Event(), threading.Event()
    turns = []
    rig.handle = lambda envelope: envelope.message.name == "suspect" and (began.set(), go_on.wait(DEADLINE))
    rig.send("fresh", "suspect", "other")
    rig.was_delivered("suspect", 1)
    worker = rig.worker(concurrency=2)
    turn = worker._turn
    worker._turn = lambda: (turns.append(1), turn())

    with running(worker):
        assert began.wait(DEADLINE)
        before = len(turns)
        threading.Event().wait(0.2)
        assert len(turns) - before <= 3
        go_on.set()
        eventually(lambda: len(rig.handled) == 3)
