from __future__ import annotations

import sys
import threading
from itertools import count

from bus.envelope import Envelope
from bus.lanes import Lanes, ReceivedMessage
from bus.transports.base import Claim

_ids = count(1)


def a_message(name: str, *, receiver: int = 0, key: str | None = None, deliveries: int = 1) -> ReceivedMessage:
    return ReceivedMessage(Envelope(name), Claim(next(_ids), deliveries, "queue"), receiver, key)


def lanes_with(*messages: ReceivedMessage, receivers: int = 1, concurrency: int = 10) -> Lanes:
    lanes = Lanes(receivers, concurrency)
    lanes.take_in(messages)
    return lanes


def begin(lanes: Lanes) -> ReceivedMessage | None:
    return lanes.begin_next(suspects=True)


def names_begun_by(lanes: Lanes) -> list[str]:
    names = []
    while (message := begin(lanes)) is not None:
        names.append(message.envelope.message)
    return names


def handled(lanes: Lanes, message: ReceivedMessage) -> None:
    message.begun_at = 1.0
    lanes.end(message)


def test_messages_begin_in_the_order_in_which_they_came():
    assert names_begun_by(lanes_with(a_message("first"), a_message("second"))) == ["first", "second"]


def test_messages_of_an_earlier_receiver_begin_first():
    lanes = lanes_with(a_message("low", receiver=1), a_message("high", receiver=0), receivers=2)

    assert names_begun_by(lanes) == ["high", "low"]


def test_no_more_begin_than_the_concurrency_allows():
    lanes = lanes_with(*(a_message(str(number)) for number in range(5)), concurrency=2)

    assert names_begun_by(lanes) == ["0", "1"]
    assert (len(lanes.running), lanes.ready, lanes.waiting) == (2, 3, 3)


def test_messages_of_one_key_run_one_after_the_other_and_hold_back_nobody_else():
    first, second = a_message("a1", key="a"), a_message("a2", key="a")
    lanes = lanes_with(first, second, a_message("b1", key="b"), a_message("no key"))

    assert names_begun_by(lanes) == ["a1", "b1", "no key"]
    handled(lanes, first)
    assert names_begun_by(lanes) == ["a2"]


def test_a_key_is_forgotten_when_its_last_message_has_ended():
    message = a_message("a1", key="a")
    lanes = lanes_with(message)
    begin(lanes)
    handled(lanes, message)

    lanes.take_in([a_message("a2", key="a")])

    assert names_begun_by(lanes) == ["a2"]
    assert len(lanes._followers) == 1


def test_the_same_key_of_another_receiver_is_another_lane():
    lanes = lanes_with(a_message("here", key="a"), a_message("there", receiver=1, key="a"), receivers=2)

    assert names_begun_by(lanes) == ["here", "there"]


def test_a_suspect_waits_until_nothing_else_runs_or_could():
    innocent = a_message("innocent")
    lanes = lanes_with(a_message("suspect", deliveries=2), innocent)

    assert names_begun_by(lanes) == ["innocent"]
    assert not lanes.suspect_is_next
    handled(lanes, innocent)
    assert lanes.suspect_is_next
    assert names_begun_by(lanes) == ["suspect"]


def test_nothing_begins_while_a_suspect_runs():
    suspect = a_message("suspect", deliveries=2)
    lanes = lanes_with(suspect, a_message("another suspect", deliveries=3))
    assert begin(lanes) is suspect

    lanes.take_in([a_message("innocent")])

    assert begin(lanes) is None
    handled(lanes, suspect)
    assert names_begun_by(lanes) == ["innocent"]


def test_suspects_run_one_at_a_time():
    first, second = a_message("first", deliveries=2), a_message("second", deliveries=2)
    lanes = lanes_with(first, second)

    assert begin(lanes) is first
    assert begin(lanes) is None
    assert lanes.suspects == 2
    handled(lanes, first)
    assert begin(lanes) is second
    handled(lanes, second)
    assert lanes.suspects == 0


def test_a_suspect_behind_its_own_key_waits_its_turn():
    first, suspect = a_message("a1", key="a"), a_message("a2", key="a", deliveries=2)
    lanes = lanes_with(first, suspect)

    assert begin(lanes) is first
    assert begin(lanes) is None
    handled(lanes, first)
    assert begin(lanes) is suspect


def test_a_suspect_is_not_given_to_those_who_want_none():
    lanes = lanes_with(a_message("suspect", deliveries=2))

    assert lanes.begin_next(suspects=False) is None
    assert lanes.waiting == 1


def test_no_more_begin_than_the_allowance():
    lanes = lanes_with(*(a_message(str(number)) for number in range(5)))
    lanes.allowance = 3

    assert names_begun_by(lanes) == ["0", "1", "2"]
    assert lanes.allowance == 0


def test_a_message_that_was_taken_away_does_not_use_up_the_allowance():
    taken_away, other = a_message("taken away"), a_message("other")
    lanes = lanes_with(taken_away, other)
    lanes.allowance = 1
    assert begin(lanes) is taken_away

    lanes.end(taken_away)

    assert names_begun_by(lanes) == ["other"]


def test_nothing_begins_once_it_is_closed():
    lanes = lanes_with(a_message("late"))

    lanes.closed = True

    assert begin(lanes) is None


def test_threads_that_hammer_it_keep_every_key_in_order_and_apart():
    keys, each = "abcdef", 150
    lanes = lanes_with(*(a_message(str(number), key=key) for number in range(each) for key in keys), concurrency=4)
    seen: dict[str, list[int]] = {key: [] for key in keys}
    inside: set[str] = set()
    broken: list[str] = []

    def work() -> None:
        while lanes.waiting or lanes.running:
            message = lanes.begin_next(suspects=True)
            if message is None:
                continue
            assert message.key is not None
            if message.key in inside or len(lanes.running) > 4:
                broken.append(message.key)
            inside.add(message.key)
            seen[message.key].append(int(message.envelope.message))
            inside.discard(message.key)
            handled(lanes, message)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert broken == []
    assert seen == {key: list(range(each)) for key in keys}
