"""When a receiver is asked for messages."""

from __future__ import annotations

import random
from typing import Final

_SHORTEST_PAUSE: Final = 0.1  # seconds
_FIRST_BACK_OFF: Final = 0.5
_LONGEST_BACK_OFF: Final = 30.0


class Polling:
    """Says when one receiver is to be asked.

    One that can wake the worker is asked when it did, one that cannot after 100 ms, doubling to ``longest_pause`` while
    it is empty; either one at once while its answers are full. After an error there is a wait of 0.5 s, doubling to
    30 s, with jitter. All times are readings of one monotonic clock, in seconds.
    """

    __slots__ = ("_failures", "_longest", "_not_before", "_pause", "_woken", "can_wake", "due")

    def __init__(self, longest_pause: float) -> None:
        self._longest = longest_pause
        self._pause = min(_SHORTEST_PAUSE, longest_pause)
        self._failures = 0
        self._not_before = 0.0
        self._woken = False
        self.can_wake = False
        self.due = 0.0

    def wake(self) -> None:
        """Say that something may be there. From any thread."""
        self._woken = True

    @property
    def failing(self) -> bool:
        """Whether the last contact failed."""
        return self._failures > 0

    def is_due(self, now: float) -> bool:
        """Tell whether the receiver is to be asked now."""
        if self._failures and now < self._not_before:
            return False
        return self._woken or now >= self.due

    def wait(self, now: float) -> float:
        """Return the seconds until the receiver is to be asked, when nothing wakes the worker earlier."""
        due = self._not_before if self._failures else (now if self._woken else self.due)
        return max(0.0, due - now)

    def asked(self) -> None:
        """Say that the receiver is about to be asked: a wake-up from now on belongs to the next time."""
        self._woken = False

    def answered(self, now: float, count: int, *, full: bool, next_due: float | None = None) -> bool:
        """Take note of an answer; True when it is the first one after an error.

        ``next_due``: in how many seconds a delayed message becomes due, where that is known.
        """
        recovered = self._failures > 0
        self._failures = 0
        if full:
            self.due = now
            return recovered
        if count:
            self._pause = min(_SHORTEST_PAUSE, self._longest)
        # A receiver that can wake is still asked now and then: its wake-up may have died with a connection.
        pause = self._longest if self.can_wake else self._pause
        self.due = now + (pause if next_due is None else min(pause, next_due))
        if not count:
            self._pause = min(self._pause * 2, self._longest)
        return recovered

    def failed(self, now: float) -> float:
        """Take note of an error; return the seconds until the receiver is asked again."""
        pause: float = min(_FIRST_BACK_OFF * 2**self._failures, _LONGEST_BACK_OFF)
        pause *= random.uniform(0.75, 1.0)  # noqa: S311 - spreads the workers that lost the same server
        self._failures = min(self._failures + 1, 16)
        self._not_before = now + pause
        return pause
