"""In which queues messages wait, for how long, and how many queues there can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.retry import RetryPolicy
from bus.transports.amqp.delays import USUAL_WAITS, delay_queue, first_hop, next_hop, retry_queue
from bus.transports.amqp.topology import Bind, DeclareExchange, DeclareQueue

MONTH = 30 * 24 * 3600 * 1000  # milliseconds


def waits(delay: int) -> list[int]:
    hop, rest = first_hop(delay)
    hops = [hop]
    while rest:
        hop, rest = next_hop(rest)
        hops.append(hop)
    return hops


@given(st.integers(min_value=1, max_value=MONTH))
def test_a_delay_is_never_too_short_and_at_most_a_second_too_long(delay: int) -> None:
    assert 0 <= sum(waits(delay)) - delay <= 1000


@given(st.integers(min_value=1, max_value=2**62))
def test_every_hop_is_one_that_rabbitmq_can_wait_for(delay: int) -> None:
    hop, rest = first_hop(delay)

    assert 0 < hop < 2**32
    assert rest < delay


def test_a_delay_below_a_second_is_exact() -> None:
    assert all(first_hop(delay) == (delay, 0) for delay in range(1, 1000))


def test_there_are_few_lengths_however_many_delays_there_are() -> None:
    first = {first_hop(delay)[0] for delay in range(1, MONTH, 997)}
    later = {next_hop(rest)[0] for rest in range(1, MONTH, 997)}

    assert len(first) < 3300
    assert len(later) < 900


def test_the_default_policy_and_postponements_need_at_most_18_queues() -> None:
    delays = {RetryPolicy().get_delay(attempt) for attempt in range(3) for _ in range(500)}
    delays |= {min(1000 << count, 30_000) for count in range(10)}

    assert {first_hop(delay)[0] for delay in delays} <= set(USUAL_WAITS)
    assert len(USUAL_WAITS) == 18


def test_a_retry_goes_back_to_its_queue_only() -> None:
    assert list(retry_queue("orders", 1000).declarations(at_least_once=False)) == [
        DeclareQueue(
            "orders.retry.1000ms",
            arguments={
                "x-message-ttl": 1000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "orders",
            },
        )
    ]


def test_a_delayed_message_goes_to_its_exchange_with_its_own_routing_key() -> None:
    assert list(delay_queue("events", 5000).declarations(at_least_once=False)) == [
        DeclareQueue("events.delay.5000ms", arguments={"x-message-ttl": 5000, "x-dead-letter-exchange": "events"}),
        DeclareExchange("events.delay.5000ms", "fanout"),
        Bind("events.delay.5000ms", "events.delay.5000ms"),
    ]


def test_no_delay_queue_expires_and_none_loses_what_the_next_queue_does_not_take() -> None:
    queue, *_ = retry_queue("orders", 1000).declarations(at_least_once=True)

    assert isinstance(queue, DeclareQueue)
    assert "x-expires" not in queue.arguments
    assert queue.arguments["x-queue-type"] == "quorum"
    assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
    assert queue.arguments["x-overflow"] == "reject-publish"
