from __future__ import annotations

from typing import Any

import pytest

from bus.clock import SystemClock
from bus.errors import ConnectionLostError
from bus.rate_limit import RateLimit, RateLimiter
from bus.store.memory import MemoryStore


def limiter(limit: int, interval: float, policy: Any = "fixed_window") -> RateLimiter:
    store = MemoryStore()
    return RateLimiter("calls", RateLimit(policy=policy, limit=limit, interval=interval), lambda: store, SystemClock())


class ScriptedLimiter:
    """Says that so many are free, and lets fewer through, as if another process had been quicker."""

    def __init__(self, free: int, *granted: int | Exception) -> None:
        self.free = free
        self.granted = list(granted)

    def available(self) -> tuple[int, float]:
        return (self.free, 0.0) if self.granted else (0, 3600.0)

    def take(self, wanted: int) -> tuple[int, float]:
        step = self.granted.pop(0) if self.granted else 0
        if isinstance(step, Exception):
            raise step
        return min(step, wanted), 0.0 if self.granted else 3600.0


def test_a_limited_transport_stands_still_and_the_others_go_on(make_rig, running, eventually) -> None:
    rig = make_rig("limited", "free")
    rig.transports["limited"].rate_limiter = limiter(3, 3600)
    rig.send(*[f"limited {number}" for number in range(10)], to="limited")
    rig.send(*[f"free {number}" for number in range(200)], to="free")

    with running(rig.worker()):
        eventually(lambda: sum(name.startswith("free") for name in rig.handled) == 200)

    assert [name for name in rig.handled if name.startswith("limited")] == ["limited 0", "limited 1", "limited 2"]
    assert [each.message.name for each in rig.transports["limited"].peek(100)] == [f"limited {n}" for n in range(3, 10)]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_when_its_time_has_come_the_worker_goes_on_by_itself_and_is_not_done_before(make_rig, concurrency) -> None:
    rig = make_rig("limited")
    rig.transports["limited"].rate_limiter = limiter(10, 0.1)
    rig.send(*[str(number) for number in range(35)])
    clock = SystemClock()
    begun = clock.monotonic()

    rig.run_until_empty(concurrency=concurrency)

    assert sorted(rig.handled, key=int) == [str(number) for number in range(35)]
    assert clock.monotonic() - begun > 0.3


def test_what_was_fetched_before_another_process_used_the_limit_up_waits_and_goes_back(
    make_rig, running, eventually
) -> None:
    rig = make_rig("limited", "free")
    rig.transports["limited"].rate_limiter = ScriptedLimiter(5, 1, 1)
    rig.send("a", "b", "c", "d", to="limited")
    rig.send("other", to="free")

    with running(rig.worker(fetch_size=5)):
        eventually(lambda: len(rig.handled) == 3)
        eventually(lambda: rig.transports["limited"].counts().in_flight == 2)

    assert sorted(rig.handled) == ["a", "b", "other"]
    assert [each.message.name for each in rig.transports["limited"].peek(100)] == ["c", "d"]
    assert rig.transports["limited"].counts().ready == 2


def test_a_store_that_is_down_delays_the_limited_transport_and_loses_nothing(
    make_rig, running, eventually, caplog
) -> None:
    rig = make_rig("limited", "free")
    rig.transports["limited"].rate_limiter = ScriptedLimiter(5, ConnectionLostError("the store is away"), 5, 5)
    rig.send("a", "b", to="limited")
    rig.send("other", to="free")

    with running(rig.worker()):
        eventually(lambda: sorted(rig.handled) == ["a", "b", "other"])

    assert rig.handled[0] == "other"
    assert 'Transport "limited" cannot be read: ConnectionLostError: the store is away' in caplog.text
