from __future__ import annotations

from bus.envelope import Envelope
from bus.lanes import Lanes, ReceivedMessage
from bus.ordered import LONGEST_RETRYING, InPlace
from bus.stamps import ConsumedByWorkerStamp, RedeliveryStamp, RetryDecisionStamp
from bus.testing.clock import FakeClock
from bus.transports.base import Claim


def a_message(number: int, key: str = "a", partition: int = 3, deliveries: int = 1) -> ReceivedMessage:
    return ReceivedMessage(Envelope(number), Claim(number, deliveries, "queue", partition=partition), 0, key)


def resting(*messages: ReceivedMessage, again_at: float = 5.0) -> Lanes:
    """Return lanes whose first message has failed and rests."""
    lanes = Lanes(1, 10)
    lanes.take_in(messages)
    first = lanes.begin_next(suspects=True)
    assert first is messages[0]
    first.claim.begin()
    first.again_at = again_at
    lanes.rest(first)
    return lanes


def test_a_retry_later_than_ten_minutes_after_the_first_failure_is_refused():
    clock = FakeClock()
    in_place = InPlace(a_message(1), clock)

    assert in_place.has_time_for(1000)
    clock.advance(LONGEST_RETRYING - 1)
    assert in_place.has_time_for(1000)
    assert not in_place.has_time_for(1001)


def test_a_waiting_message_keeps_what_a_requeued_one_would_come_back_with():
    message = a_message(1)
    message.envelope = message.envelope.with_(ConsumedByWorkerStamp())
    after = message.envelope.with_(RedeliveryStamp(1, None), RetryDecisionStamp(10, ValueError()))
    clock = FakeClock()

    InPlace(message, clock).wait(after, 2000)

    assert message.envelope.stamps == (RedeliveryStamp(1, None),)
    assert message.again_at == clock.monotonic() + 2.0


def test_nothing_of_a_resting_lane_begins_before_its_first_message_is_due():
    first, second = a_message(1), a_message(2)
    lanes = resting(first, second, again_at=5.0)

    lanes.rouse(4.9)
    assert lanes.begin_next(suspects=True) is None
    lanes.rouse(5.0)
    assert lanes.begin_next(suspects=True) is first


def test_a_resting_claim_can_be_withdrawn_and_its_lane_goes_on_without_waiting():
    first, second = a_message(1), a_message(2)
    lanes = resting(first, second, again_at=600.0)

    assert first.claim.withdraw_unless_begun()
    lanes.rouse(1.0)
    assert lanes.begin_next(suspects=True) is first
    assert not first.claim.begin()
    lanes.end(first)
    assert lanes.begin_next(suspects=True) is second


def test_followers_count_for_their_partition_until_their_lane_goes_on():
    lanes = resting(a_message(1), a_message(2))
    lanes.take_in([a_message(3), a_message(4, key="b")])

    assert lanes.resting.held(0) == 3
    assert lanes.resting.full_partitions(0, 2) == {3}
    assert lanes.resting.full_partitions(0, 3) == set()
    lanes.rouse(5.0)
    assert lanes.resting.held(0) == 0
    assert lanes.resting.full_partitions(0, 1) == set()


def test_a_suspect_that_rests_is_one_no_more():
    suspect = a_message(1, deliveries=2)
    lanes = resting(suspect)

    assert lanes.suspects == 0
    lanes.take_in([a_message(2, key="b")])
    assert lanes.begin_next(suspects=False) is not None
