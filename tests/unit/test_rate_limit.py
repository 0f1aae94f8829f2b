from __future__ import annotations

import threading
from typing import Any

import pytest

from bus.config.rate_limiters import parse_interval
from bus.errors import ConfigurationError
from bus.rate_limit import RateLimit, RateLimiter
from bus.store.memory import MemoryStore
from bus.store.sql import SqlStore
from bus.testing.clock import FakeClock


class Rig:
    """Limiters on one store, with a clock that the test moves."""

    def __init__(self, **limit: Any) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.limiter = RateLimiter("calls", RateLimit(**limit), lambda: self.store, self.clock)

    def let_through(self, *steps: float, wanted: int = 100) -> list[int]:
        """Ask at once and after each step of seconds; return how many were let through each time."""
        found = [self.limiter.take(wanted)[0]]
        for step in steps:
            self.clock.advance(step)
            found.append(self.limiter.take(wanted)[0])
        return found


def test_a_fixed_window_begins_with_its_first_message_and_ends_after_the_interval() -> None:
    rig = Rig(policy="fixed_window", limit=10, interval=60)
    rig.clock.advance(31)

    assert rig.let_through(59, 2, 59, 2) == [10, 0, 10, 0, 10]


def test_a_sliding_window_counts_the_window_before_by_its_share() -> None:
    rig = Rig(policy="sliding_window", limit=10, interval=60)

    # A quarter into the second window three quarters of the first one still count.
    assert rig.let_through(30, 45, 30, 200) == [10, 0, 2, 5, 10]


def test_a_token_bucket_allows_bursts_and_fills_step_by_step() -> None:
    rig = Rig(policy="token_bucket", limit=10, interval=15, amount=2)

    assert rig.let_through(14, 1.5, 30, 1000) == [10, 0, 2, 4, 10]


@pytest.mark.parametrize(
    ("limit", "used"),
    [
        ({"policy": "fixed_window", "limit": 5, "interval": 60}, (5,)),
        ({"policy": "sliding_window", "limit": 5, "interval": 60}, (5,)),
        ({"policy": "sliding_window", "limit": 1, "interval": 60}, (1,)),
        ({"policy": "sliding_window", "limit": 5, "interval": 60}, (2, 3)),
        ({"policy": "token_bucket", "limit": 3, "interval": 7}, (3,)),
    ],
)
def test_after_the_wait_that_is_told_and_not_before_one_more_may_begin(
    limit: dict[str, Any], used: tuple[int, ...]
) -> None:
    rig = Rig(**limit)
    for count in used:
        assert rig.limiter.take(count)[0] == count
        rig.clock.advance(1)
    free, wait = rig.limiter.available()
    assert free == 0

    rig.clock.advance(wait - 0.01)
    assert rig.limiter.available()[0] == 0
    rig.clock.advance(0.011)
    assert rig.limiter.available()[0] >= 1


def test_no_more_than_wanted_is_counted() -> None:
    rig = Rig(policy="fixed_window", limit=10, interval=60)

    assert rig.limiter.take(4) == (4, 0)
    assert rig.limiter.available() == (6, 0)


def test_looking_counts_nothing_and_writes_nothing() -> None:
    rig = Rig(policy="fixed_window", limit=1, interval=60)

    assert [rig.limiter.available()[0] for _ in range(3)] == [1, 1, 1]
    assert rig.store._values == {}


def test_a_clock_that_is_set_back_closes_nothing_for_longer_than_two_intervals() -> None:
    for policy in ("fixed_window", "sliding_window", "token_bucket"):
        rig = Rig(policy=policy, limit=1, interval=60)
        rig.limiter.take(1)
        rig.clock.set(rig.clock.now() - 86_400)

        assert rig.limiter.available()[1] <= 120


@pytest.mark.parametrize("kind", ["memory", "sql"])
def test_limiters_that_share_a_store_let_no_more_through_together(kind: str, tmp_path: Any) -> None:
    clock = FakeClock()
    memory = MemoryStore(clock)
    stores = [memory if kind == "memory" else SqlStore(str(tmp_path / "store.db"), clock=clock) for _ in range(4)]
    limit = RateLimit(policy="fixed_window", limit=50, interval=60)
    granted: list[int] = []

    def take(store: Any) -> None:
        limiter = RateLimiter("calls", limit, lambda: store, clock)
        granted.extend(limiter.take(1)[0] for _ in range(20))

    threads = [threading.Thread(target=take, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for store in stores:
        store.close()

    assert sum(granted) == 50


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1 minute", 60),
        ("60 minutes", 3600),
        ("15 min", 900),
        ("1 second", 1),
        ("2 Hours", 7200),
        ("1 day", 86_400),
        ("2 weeks", 1_209_600),
        ("500ms", 0.5),
        ("10s", 10),
    ],
)
def test_an_interval_is_written_in_the_words_of_symfony_or_in_ours(text: str, seconds: float) -> None:
    assert parse_interval(text) == seconds


@pytest.mark.parametrize("text", ["", "minute", "5", "1 month", "tomorrow", "-1 minute"])
def test_anything_else_is_no_interval(text: str) -> None:
    with pytest.raises(ConfigurationError, match='expected an interval such as "30 seconds"'):
        parse_interval(text)


@pytest.mark.parametrize(
    "limit",
    [{"policy": "leaky"}, {"limit": 0}, {"interval": 0}, {"interval": float("nan")}, {"amount": 0}],
)
def test_a_limit_that_is_none_is_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RateLimit(**limit)
