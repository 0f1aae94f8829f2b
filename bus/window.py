"""How many messages a receiver may hold unsettled."""

from __future__ import annotations

import threading
from typing import Final

_LOOK_AHEAD: Final = 0.1  # seconds of work that are fetched in advance
_MOST: Final = 100
_WEIGHT: Final = 0.2  # of the newest handling time in the average
_SHORTEST: Final = 1e-6  # seconds; what a message counts that took no measurable time


class Window:
    """Counts the messages of one receiver that are not decided on yet, and says how many it may hold.

    Those that wait for the rest of their batch do not count: however small the window, a batch gets full. One thread
    calls ``arrived`` and ``suspect``, the one that fetches; any thread the others.

    Attributes:
        capacity: how many messages may be held, those included whose settlement is on its way.
    """

    __slots__ = (
        "_arrived",
        "_aside",
        "_concurrency",
        "_ended",
        "_fixed",
        "_lock",
        "_seconds",
        "_suspicious",
        "capacity",
    )

    def __init__(self, concurrency: int, fetch_size: int | None = None) -> None:
        """``fetch_size`` None: as many as fit into 100 ms at the recent handling time, ``concurrency`` at once."""
        self._concurrency = concurrency
        self._fixed = fetch_size
        self._seconds = 0.0
        self._arrived = 0
        self._ended = 0
        self._aside = 0
        self._suspicious = True
        self._lock = threading.Lock()  # around what pool threads write
        self.capacity = 1

    @property
    def held(self) -> int:
        """How many messages are not decided on yet, those excepted that have stepped aside."""
        return self._arrived - self._ended - self._aside

    def suspect(self) -> None:
        """Hold one at a time until a fresh message is seen: what comes first may have killed the last worker."""
        with self._lock:
            self._suspicious = True
            self.capacity = 1

    def arrived(self, count: int, *, fresh: bool) -> None:
        """Take note of messages that were fetched; ``fresh`` when one of them is delivered for the first time."""
        self._arrived += count
        if fresh and self._suspicious:
            self._suspicious = False
            self.capacity = self._fitting()

    def stepped_aside(self) -> None:
        """Take note that a message waits for the rest of its batch."""
        with self._lock:
            self._aside += 1

    def came_back(self) -> None:
        """Take note that a message does not wait any longer."""
        with self._lock:
            self._aside -= 1

    def ended(self, seconds: float | None) -> None:
        """Take note that a message was handled in ``seconds``; None: it was taken away before it began."""
        with self._lock:
            self._ended += 1
            if seconds is not None:
                seconds = max(seconds, _SHORTEST)
                self._seconds = self._seconds + _WEIGHT * (seconds - self._seconds) if self._seconds else seconds
                if not self._suspicious:
                    self.capacity = self._fitting()

    def _fitting(self) -> int:
        if self._fixed is not None:
            return self._fixed
        least = self._concurrency + 1
        if not self._seconds:
            return least
        fitting = int(_LOOK_AHEAD * self._concurrency / self._seconds)
        return max(least, min(_MOST, fitting))
