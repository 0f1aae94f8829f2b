"""A store in this process's memory, for tests and for programs of one process."""

from __future__ import annotations

import heapq
import threading

from bus.clock import Clock, SystemClock


class MemoryStore:
    """Keeps values as long as the process lives; other processes do not see them. Thread-safe; nothing blocks."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._values: dict[str, tuple[str, float | None]] = {}  # with the monotonic time at which it is over
        self._ends: list[tuple[float, str]] = []

    def put_if_absent(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store a value unless the key has one."""
        with self._lock:
            self._remove_what_is_over()
            if key in self._values:
                return False
            self._put(key, value, ttl)
            return True

    def swap(self, key: str, expected: str, value: str, ttl: float | None = None) -> bool:
        """Replace one value by another."""
        with self._lock:
            self._remove_what_is_over()
            if not self._has(key, expected):
                return False
            self._put(key, value, ttl)
            return True

    def delete_if(self, key: str, expected: str) -> bool:
        """Delete a value."""
        with self._lock:
            self._remove_what_is_over()
            if not self._has(key, expected):
                return False
            del self._values[key]
            return True

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None."""
        with self._lock:
            self._remove_what_is_over()
            found = self._values.get(key)
            return found[0] if found is not None else None

    def close(self) -> None:
        """Do nothing: the values stay, for whoever still uses this object."""

    def _has(self, key: str, expected: str) -> bool:
        found = self._values.get(key)
        return found is not None and found[0] == expected

    def _put(self, key: str, value: str, ttl: float | None) -> None:
        end = None if ttl is None else self._clock.monotonic() + ttl
        self._values[key] = (value, end)
        if end is not None:
            heapq.heappush(self._ends, (end, key))

    def _remove_what_is_over(self) -> None:
        now = self._clock.monotonic()
        while self._ends and self._ends[0][0] <= now:
            end, key = heapq.heappop(self._ends)
            found = self._values.get(key)
            # An entry of a value that was replaced or deleted meanwhile says nothing about the one that is there.
            if found is not None and found[1] == end:
                del self._values[key]
