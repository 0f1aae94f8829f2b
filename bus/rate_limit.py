"""How many messages may begin in which time: the policies of Symfony's rate limiter, shared through a store."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bus.clock import Clock
from bus.errors import ConfigurationError, quoted
from bus.store.base import Store

Policy = Literal["fixed_window", "sliding_window", "token_bucket", "no_limit"]
POLICIES: Final = ("fixed_window", "sliding_window", "token_bucket", "no_limit")

# What is remembered of a limit: three numbers, whose meaning is the policy's.
State: TypeAlias = tuple[float, float, float]

_PREFIX: Final = "rate_limiter:"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``limit`` messages in ``interval`` seconds.

    - ``fixed_window``: the window begins with its first message.
    - ``sliding_window``: the window before counts with the share of it that the last ``interval`` seconds cover.
    - ``token_bucket``: bursts of up to ``limit``; every ``interval`` seconds ``amount`` more may begin.
    - ``no_limit``: any number.
    """

    policy: Policy = "fixed_window"
    limit: int = 1
    interval: float = 1.0
    amount: int = 1

    def __post_init__(self) -> None:
        problems = []
        if self.policy not in POLICIES:
            problems.append(f'there is no policy "{self.policy}"; there are: {quoted(POLICIES)}')
        if self.limit < 1:
            problems.append(f"the limit {self.limit} lets nothing through; it must be at least 1")
        if not (self.interval > 0 and math.isfinite(self.interval)):
            problems.append(f"the interval of {self.interval} seconds is not more than 0")
        if self.amount < 1:
            problems.append(f"the amount {self.amount} lets nothing through; it must be at least 1")
        if problems:
            raise ConfigurationError(*problems)

    @property
    def remembered(self) -> float:
        """Seconds after which what was let through before does not matter any more."""
        intervals = {"sliding_window": 2, "token_bucket": math.ceil(self.limit / self.amount)}.get(self.policy, 1)
        return self.interval * intervals


class RateLimiter:
    """Counts what is let through under one name, for all processes that share the store. Thread-safe.

    The store's steps are atomic, so processes together never let more through than the limit. Times are those of the
    hosts' clocks: hosts whose clocks differ by a second are off by that second.
    """

    def __init__(self, name: str, limit: RateLimit, store: Callable[[], Store], clock: Clock) -> None:
        self.name = name
        self._limit = limit
        self._store = store
        self._clock = clock

    def available(self) -> tuple[int, float]:
        """Return how many would be let through now, and, where that is none, the seconds until one is.

        Raises:
            TransportError: the store does not answer.
        """
        count, wait, _ = _look(self._limit, self._read(self._store().get(self._key)), self._clock.now())
        return count, wait

    def take(self, wanted: int) -> tuple[int, float]:
        """Let up to ``wanted`` through; return how many, and the seconds until more may follow.

        Raises:
            TransportError: the store does not answer; perhaps some were counted.
        """
        store = self._store()
        # Each round another process was quicker.
        while True:
            held = store.get(self._key)
            now = self._clock.now()
            count, wait, state = _look(self._limit, self._read(held), now)
            granted = min(count, wanted)
            if granted == 0:
                return 0, wait
            state = _count(self._limit, state, granted)
            # Twice the time, for the store has a clock of its own.
            ttl, text = 2 * self._limit.remembered, json.dumps(state)
            if store.put_if_absent(self._key, text, ttl) if held is None else store.swap(self._key, held, text, ttl):
                return granted, _look(self._limit, state, now)[1]

    @property
    def _key(self) -> str:
        return _PREFIX + self.name

    @staticmethod
    def _read(text: str | None) -> State | None:
        if text is None:
            return None
        first, second, third = json.loads(text)
        return first, second, third


def _look(limit: RateLimit, state: State | None, now: float) -> tuple[int, float, State]:
    """Return how many are free at a time, how long until one is, and the state brought up to that time."""
    if limit.policy == "token_bucket":
        return _look_into_bucket(limit, state, now)
    begin, count, before = state if state is not None else (now, 0, 0)
    if not begin - limit.interval <= now:
        begin, count, before = now, 0, 0  # the clock was set back by more than a window
    passed = max(0, math.floor((now - begin) / limit.interval))
    if passed and limit.policy == "fixed_window":
        begin, count = now, 0
    elif passed:
        begin, count, before = begin + passed * limit.interval, 0, count if passed == 1 else 0
    if limit.policy == "fixed_window":
        return (
            max(0, limit.limit - int(count)),
            _until(begin + limit.interval, now, count < limit.limit),
            (begin, count, 0),
        )
    share = min(1.0, max(0.0, 1 - (now - begin) / limit.interval))
    free = math.floor(limit.limit - count - before * share)
    return max(0, free), _until(_slides_at(limit, begin, count, before), now, free > 0), (begin, count, before)


def _slides_at(limit: RateLimit, begin: float, count: float, before: float) -> float:
    """Return when the sliding window has room for one more."""
    room = limit.limit - 1
    if count <= room:
        # Still in this window, as soon as enough of the one before has left.
        return begin + limit.interval * (1 - (room - count) / before if before else 0)
    return begin + limit.interval * (2 - room / count)


def _look_into_bucket(limit: RateLimit, state: State | None, now: float) -> tuple[int, float, State]:
    tokens, filled_at, _ = state if state is not None else (limit.limit, now, 0)
    if not filled_at - limit.interval <= now:
        filled_at = now
    passed = max(0, math.floor((now - filled_at) / limit.interval))
    tokens = min(limit.limit, tokens + passed * limit.amount)
    filled_at = now if tokens == limit.limit else filled_at + passed * limit.interval
    return int(tokens), _until(filled_at + limit.interval, now, tokens >= 1), (tokens, filled_at, 0)


def _count(limit: RateLimit, state: State, granted: int) -> State:
    first, second, third = state
    return (first - granted, second, third) if limit.policy == "token_bucket" else (first, second + granted, third)


def _until(due: float, now: float, is_free: bool) -> float:
    # A little later, so that rounding does not have one ask too early.
    return 0.0 if is_free else max(0.0, due - now) + 0.001
