"""Waiting for several answers."""

from __future__ import annotations

from collections.abc import Callable


class Countdown:
    """Calls ``done`` after as many answers as are awaited; at once where none is. For one thread."""

    __slots__ = ("_done", "_left")

    def __init__(self, answers: int, done: Callable[[], None]) -> None:
        self._left = answers
        self._done = done
        if not answers:
            done()

    def one_less(self) -> None:
        """Take note of an answer."""
        self._left -= 1
        if not self._left:
            self._done()
