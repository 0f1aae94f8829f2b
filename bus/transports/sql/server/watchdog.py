"""Cuts connections on which a call waits for longer than it may: the server hangs, or is not there any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

logger = logging.getLogger(__name__)

_BETWEEN_LOOKS: Final = 0.25  # seconds
_IDLE: Final = 30.0  # seconds without a call after which the thread ends


class Watchdog:
    """Watches calls from a daemon thread, which looks now and then and is never woken. Thread-safe."""

    def __init__(self, cut: Callable[[Any], None]) -> None:
        self._cut = cut
        self.forget()

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._deadlines: dict[int, tuple[float, Any]] = {}
        self._last_call = 0.0

    @contextmanager
    def watching(self, connection: Any, until: float) -> Iterator[None]:
        """Cut the connection unless the block ends by then, a reading of the monotonic clock."""
        self._deadlines[id(connection)] = (until, connection)
        self._last_call = time.monotonic()
        if self._thread is None:
            self._start()
        try:
            yield
        finally:
            self._deadlines.pop(id(connection), None)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bus-sql-watchdog", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_BETWEEN_LOOKS)
            now = time.monotonic()
            for key, (until, connection) in list(self._deadlines.items()):
                if now >= until and self._deadlines.pop(key, None) is not None:
                    logger.warning("A database server does not answer; its connection is cut")
                    self._cut(connection)
            with self._starting:
                if not self._deadlines and now - self._last_call > _IDLE:
                    self._thread = None
                    return
