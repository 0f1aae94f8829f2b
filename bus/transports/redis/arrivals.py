"""Tells a waiting worker that something may be there, without asking again and again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from bus.errors import TransportError
from bus.transports.redis.connection import Server

logger = logging.getLogger(__name__)

# Redis is asked again at least so often, in seconds: a PHP application tells nobody of the messages that it delays.
_LONGEST: Final = 1.0
_AFTER_AN_ERROR: Final = 0.5


class Arrivals:
    """Waits on the server, in a thread of its own, where the last read left nothing to do.

    Only then: a worker that is busy asks by itself. ``look`` returns where a reader stands now and in how many
    milliseconds something becomes due.
    """

    def __init__(
        self, server: Server, wake_key: str, look: Callable[[], tuple[Sequence[tuple[str, str]], int | None]]
    ) -> None:
        self._server = server
        self._wake_key = wake_key
        self._look = look
        self._wakes: list[Callable[[], None]] = []
        self.forget()

    def forget(self) -> None:
        """Begin anew in a forked child, where no thread runs."""
        self._stop = threading.Event()
        self._waiting = threading.Event()
        self._thread: threading.Thread | None = None

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when something may be there, from now on."""
        self._wakes.append(wake)
        self.wait_for_more()

    def wait_for_more(self) -> None:
        """Say that nothing is left to do until something arrives."""
        if not self._wakes:
            return
        self._waiting.set()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(self._stop, self._waiting), name="bus-redis-arrivals", daemon=True
            )
            self._thread.start()

    def tell(self) -> None:
        """Say that something may be there."""
        for wake in self._wakes:
            wake()

    def stop(self) -> None:
        """Wait no more. The thread ends by itself within a second; it may still tell what is not true any more."""
        self._stop.set()
        self._waiting.set()
        self.forget()

    def _run(self, stop: threading.Event, waiting: threading.Event) -> None:
        while True:
            waiting.wait()
            if stop.is_set():
                return
            waiting.clear()
            try:
                while not stop.is_set() and not self._something_came():
                    pass
            except TransportError as error:
                # The worker meets the same error, says so, and asks again later.
                logger.debug("Waiting for messages failed: %s", error)
                stop.wait(_AFTER_AN_ERROR)
            except Exception:
                if stop.is_set():
                    return  # its connection was closed under it
                logger.exception("Waiting for messages failed")
                stop.wait(_AFTER_AN_ERROR)
            if not stop.is_set():
                self.tell()

    def _something_came(self) -> bool:
        wake_position = (self._wake_key, self._last_wake())
        positions, due_in = self._look()
        if due_in == 0:
            return True
        longest = min(_LONGEST, self._server.place.options.read_timeout / 2)
        seconds = longest if due_in is None else min(longest, due_in / 1000)
        began = time.monotonic()
        if self._server.wait_for_entries([*positions, wake_position], max(1, int(seconds * 1000))):
            return True
        return due_in is not None and time.monotonic() - began >= due_in / 1000

    def _last_wake(self) -> str:
        found = self._server.execute("XREVRANGE", self._wake_key, "+", "-", "COUNT", 1)
        return found[0][0].decode() if found else "0-0"
