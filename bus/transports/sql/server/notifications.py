"""PostgreSQL's notifications: senders say that messages are there, idle workers listen.

The channel is the name of the table and the payload that of the queue, as in Symfony, whose workers listen there too.
A notification that is lost costs time and no message: a worker also looks now and then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final

from bus.errors import TransportError
from bus.transports.sql.server.database import ServerDatabase
from bus.transports.sql.server.postgresql import PostgresClient

logger = logging.getLogger(__name__)

_APART: Final = 0.02  # seconds between two notifications of one queue
_PATIENCE: Final = 2.0  # seconds
_LISTENING: Final = 1.0  # seconds until the listener looks whether it shall stop
_FIRST_PAUSE: Final = 0.5  # seconds before it connects again, doubling
_LONGEST_PAUSE: Final = 10.0


class Notifier:
    """Tells listeners of queues that messages were committed. Thread-safe.

    At most one notification each 20 ms: notifications of all connections wait for each other at the server. The first
    one is sent at once; what comes shortly after it is told at the end of these 20 ms, from a daemon thread.
    """

    def __init__(self, database: ServerDatabase, channel: str) -> None:
        self._database = database
        self._channel = channel
        self.begin()

    def begin(self) -> None:
        """Begin without a thread."""
        self._lock = threading.Lock()
        self._last = float("-inf")
        self._waiting: set[str] = set()
        self._thread: threading.Thread | None = None

    def tell(self, queues: Collection[str]) -> None:
        """Say that messages stand in these queues, now or in a moment. Never raises."""
        with self._lock:
            self._waiting.update(queues)
            if self._thread is not None:
                return
            if time.monotonic() - self._last < _APART:
                self._thread = threading.Thread(target=self._run, name="bus-notify", daemon=True)
                self._thread.start()
                return
        self._notify()

    def flush(self) -> None:
        """Say what has not been said yet. Never raises."""
        self._notify()

    def _run(self) -> None:
        while True:
            time.sleep(_APART)
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
            self._notify()

    def _notify(self) -> None:
        with self._lock:
            queues, self._waiting = self._waiting, set()
            self._last = time.monotonic()
        if not queues:
            return

        def notify(cursor: Any) -> None:
            cursor.execute("SELECT pg_notify(%s, queue) FROM unnest(%s::text[]) AS queue", (self._channel, [*queues]))

        try:
            self._database.write(notify, within=_PATIENCE, lasts=False, single=True)
        except TransportError as error:
            logger.warning(
                'Workers of "%s" were not told of new messages, and will find them: %s', self._channel, error
            )


class Listener:
    """Calls ``wake`` when messages of a queue may be there, from a daemon thread with a connection of its own."""

    def __init__(self, client: PostgresClient, channel: str, queue: str, wake: Callable[[], None]) -> None:
        self._client = client
        self._channel = channel
        self._queue = queue
        self._wake = wake
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bus-listen", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, soon. Idempotent."""
        self._stop.set()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except self._client.errors as error:
                if self._stop.is_set():
                    return
                logger.info('Listening on "%s" ended and begins again: %s', self._channel, error)
            except Exception:
                logger.exception('Listening on "%s" ended and begins again', self._channel)
            pause = _FIRST_PAUSE if time.monotonic() - began > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
            self._stop.wait(pause)

    def _listen(self) -> None:
        connection = self._client.connect()
        try:
            self._client.listen(connection, self._channel)
            self._wake()  # what was said before was not heard
            while not self._stop.is_set():
                if self._client.hears(connection, self._queue, within=_LISTENING):
                    self._wake()
        finally:
            with suppress(*self._client.errors):
                connection.close()
