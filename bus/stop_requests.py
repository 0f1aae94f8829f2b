"""Requests to all workers to stop. Each worker looks for a new one every 5 s."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from bus.errors import BusError, ConfigurationError, describe
from bus.identity import uuid7
from bus.store.base import Store
from bus.store.memory import MemoryStore

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 5.0  # seconds

_KEY: Final = "bus:stop-workers"
_KEPT: Final = 86_400.0  # seconds: far longer than between two looks
NO_REQUEST: Final = ""


class StopRequests(Protocol):
    """Where requests are left. A request is known by a text that no other one has."""

    reaches_other_hosts: bool

    def latest(self) -> str:
        """Return the latest request, or ``NO_REQUEST``."""

    def leave(self) -> None:
        """Leave a request for every worker that is running now."""


def stop_requests(store: Store) -> StopRequests:
    """Return where the workers that share this store look; where it is shared with nobody, a file of this host."""
    return RequestsOnThisHost() if isinstance(store, MemoryStore) else RequestsInStore(store)


class RequestsInStore:
    """Requests in the shared store."""

    reaches_other_hosts = True

    def __init__(self, store: Store) -> None:
        self._store = store

    def latest(self) -> str:
        """Return the latest request. Raises TransportError."""
        return self._store.get(_KEY) or NO_REQUEST

    def leave(self) -> None:
        """Leave a request. Raises TransportError."""
        request = uuid7()
        while not self._store.put_if_absent(_KEY, request, _KEPT):
            before = self._store.get(_KEY)
            if before is not None and self._store.swap(_KEY, before, request, _KEPT):
                return


class RequestsOnThisHost:
    """Requests in a file that belongs to the user: for all workers of that user on this host."""

    reaches_other_hosts = False

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir(), f"bus-{os.getuid()}")
        self._file = self._folder / "stop-workers"

    def latest(self) -> str:
        """Return the latest request. Raises ConfigurationError: the folder belongs to somebody else."""
        if not self._folder.exists():
            return NO_REQUEST
        self._must_be_ours()
        return self._file.read_text("ascii") if self._file.exists() else NO_REQUEST

    def leave(self) -> None:
        """Leave a request. Raises ConfigurationError: the folder belongs to somebody else."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._must_be_ours()
        new = self._folder / f"stop-workers-{os.getpid()}"
        new.write_text(uuid7(), "ascii")
        new.replace(self._file)

    def _must_be_ours(self) -> None:
        found = self._folder.lstat()
        # In a folder for everybody's temporary files anybody can make it first.
        if found.st_uid != os.getuid() or self._folder.is_symlink():
            raise ConfigurationError(
                f'The folder "{self._folder}", where workers look for requests to stop, belongs to another user; '
                "remove it, or set TMPDIR to a folder of your own."
            )


@contextmanager
def stop_on_request(
    stop: Callable[[str], None],
    find: Callable[[], StopRequests],
    since: str | None = None,
    known: Callable[[str], None] = lambda request: None,
    every: float = LOOK_EVERY,
) -> Iterator[None]:
    """Call ``stop`` when a new request is left, for the length of a ``with`` block. A thread looks.

    Args:
        stop: is told the reason.
        find: returns where to look; whatever is wrong with that is logged, since a worker can do without.
        since: the latest request that is not for this worker; None: the one that is there at the first look.
        known: is told that request after the first look.
        every: seconds between two looks.
    """
    over = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(stop, find, since, known, every, over), name="bus-stop-requests", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)  # a store that hangs does not keep the worker from ending


def _watch(
    stop: Callable[[str], None],
    find: Callable[[], StopRequests],
    since: str | None,
    known: Callable[[str], None],
    every: float,
    over: threading.Event,
) -> None:
    failing = False
    told = False
    while not over.is_set():
        try:
            latest = find().latest()
        except (BusError, OSError) as error:
            if not failing:
                logger.warning("bus stop-workers does not reach this worker at present: %s", describe(error))
            failing = True
        else:
            failing = False
            since = latest if since is None else since
            if not told:
                known(since)
                told = True
            # None left, after one was: it has been forgotten meanwhile.
            if latest not in (since, NO_REQUEST):
                stop("bus stop-workers was called")
                return
        over.wait(every)
