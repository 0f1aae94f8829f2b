"""A clock whose hands a test turns."""

from __future__ import annotations


class FakeClock:
    """A Clock that stands still until it is told to go on."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """Return seconds since the epoch, UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since this clock was made."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let this much time pass."""
        self._now += seconds
        self._monotonic += seconds

    def set(self, now: float) -> None:
        """Change the time of day, as an operator or NTP does: ``monotonic`` does not notice."""
        self._now = now
