"""How a sleeping worker is woken, by whom ever, without missing a call."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class WakeUp:
    """One thread sleeps on it, all others ring. Many rings make one wake-up: waking a thread is dear."""

    __slots__ = ("_queue", "_rung")

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()
        self._rung = False

    def ring(self) -> None:
        """End the sleep, or the next one. From any thread, after having done what the sleeper shall see."""
        if not self._rung:
            self._rung = True
            self._queue.put(None)

    def ring_from_signal_handler(self) -> None:
        """Do as ``ring``, also when the signal interrupted that very function between its two steps."""
        self._queue.put(None)

    def sleep(self, seconds: float) -> None:
        """Return when it rings, at the latest after ``seconds``."""
        try:
            self._queue.get(timeout=seconds)
        except Empty:
            pass
        # It falls before the sleeper looks at anything: who still finds it up did his part before, and is seen.
        self._rung = False
