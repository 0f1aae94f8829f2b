"""Keeps what this process holds its own, and frees what others left behind."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from typing import Final, Protocol

from bus.errors import TransportError
from bus.transports.redis.options import RedisOptions
from bus.transports.redis.streams import LIFE, GroupStreams, Held

logger = logging.getLogger(__name__)

_EVERY: Final = 2.5  # seconds between two beats
# So long others are watched before they are taken for dead: two of their beats, so that everybody can be heard of after
# the server was away.
_WATCHED: Final = 5.5


class HoldsClaims(Protocol):
    """What holds the claims of this process: the driver."""

    def held(self) -> Sequence[Held]:
        """Return where the claimed messages stand."""

    def lose(self, lost: Sequence[Held]) -> None:
        """Take note that these messages are somebody else's now."""


class Heart:
    """The life of one consumer, from the first read until ``stop``: a thread lets the server hear of it.

    Attributes:
        consumer: its name, which no other one has.
    """

    def __init__(self, streams: GroupStreams, options: RedisOptions, holder: HoldsClaims, pid: int) -> None:
        self.consumer = f"{options.consumer}-{socket.gethostname()}:{pid}:{secrets.token_hex(4)}"
        self._streams = streams
        self._options = options
        self._holder = holder
        self._heard_of = float("-inf")
        self._watched: dict[str, float] = {}
        self._next_foreign_look = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bus-redis-heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self, wait: float = 0.0) -> None:
        """Beat no more; wait so many seconds for a beat that is under way."""
        self._stop.set()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(wait)

    def was_heard(self, since: float) -> None:
        """Take note that the server heard of this consumer in a call that began then."""
        self._heard_of = max(self._heard_of, since)

    @property
    def is_over(self) -> bool:
        """Whether others may have taken this process for dead."""
        return time.monotonic() > self._heard_of + LIFE

    def _run(self) -> None:
        failing = False
        while not self._stop.wait(_EVERY):
            try:
                self._beat()
                self._look_for_the_dead()
                failing = False
            except TransportError as error:
                self._watched.clear()
                if not failing and not self._stop.is_set():
                    logger.warning(
                        'The claims of consumer "%s" could not be kept alive; it is tried again: %s',
                        self.consumer,
                        error,
                    )
                failing = True
            except Exception:
                logger.exception(
                    'The claims of consumer "%s" could not be kept alive; it is tried again', self.consumer
                )

    def _beat(self) -> None:
        began = time.monotonic()
        held = self._holder.held()
        lost = self._streams.beat(self.consumer, held)
        self.was_heard(began)
        if lost:
            self._holder.lose([held[at] for at in lost])

    def _look_for_the_dead(self) -> None:
        now, idle = time.monotonic(), 0
        if now >= self._next_foreign_look:
            self._next_foreign_look = now + self._options.claim_interval / 1000
            idle = self._options.redeliver_timeout * 1000
        dead, freed = self._streams.survey(self.consumer, idle)
        if freed:
            logger.warning('%s messages of "%s" that PHP workers had left are free', freed, self._streams.keys.origin)
        self._watched = {name: self._watched.get(name, now) for name in dead}
        for name, since in list(self._watched.items()):
            if now - since >= _WATCHED:
                self._recover(name)
                self._watched.pop(name, None)

    def _recover(self, name: str) -> None:
        freed = 0
        while (more := self._streams.recover(name)) and not self._stop.is_set():
            freed += more
        if freed:
            logger.warning(
                'Consumer "%s" of "%s" went away holding %s messages; they are delivered again',
                name,
                self._streams.keys.origin,
                freed,
            )
