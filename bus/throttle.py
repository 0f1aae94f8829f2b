"""What a rate limit lets a worker begin of one receiver's messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bus.lanes import ReceivedMessage
from bus.rate_limit import RateLimiter


class Throttle:
    """Says for how many messages a receiver may be asked, and holds back those that its limit does not let begin yet.

    Another process may use the limit up between the question and the answer: what was fetched then waits here, unbegun,
    and goes first. Without a limiter everything passes. One thread uses it; any may read ``is_open`` and ``holds``.
    """

    __slots__ = ("_held", "_limiter", "_open_at")

    def __init__(self, limiter: RateLimiter | None) -> None:
        self._limiter = limiter
        self._held: deque[ReceivedMessage] = deque()
        self._open_at = float("-inf")

    @property
    def holds(self) -> bool:
        """Whether there are messages that wait for the limit."""
        return bool(self._held)

    def is_open(self, now: float) -> bool:
        """Tell whether the limit may let something through; ``now`` is the worker's monotonic clock."""
        return now >= self._open_at

    def wait(self, now: float) -> float:
        """Return the seconds until the limit may let something through."""
        return max(0.0, self._open_at - now)

    def room(self, most: int, now: float) -> int:
        """Return for how many messages, of ``most``, the receiver may be asked.

        Raises:
            TransportError: the limiter's store does not answer.
        """
        if self._limiter is None:
            return most
        free, wait = self._limiter.available()
        self._close(wait, now)
        return min(free, most)

    def let_through(self, messages: Sequence[ReceivedMessage], most: int, now: float) -> Sequence[ReceivedMessage]:
        """Return those of the messages held back, and of these, at most ``most``, that may begin; count them.

        Raises:
            TransportError: the limiter's store does not answer; all of them are held back.
        """
        if self._limiter is None:
            return messages
        self._held.extend(messages)
        if not self._held:
            return ()
        granted, wait = self._limiter.take(min(len(self._held), most))
        self._close(wait, now)
        return [self._held.popleft() for _ in range(granted)]

    def _close(self, wait: float, now: float) -> None:
        self._open_at = now + wait if wait > 0 else float("-inf")
