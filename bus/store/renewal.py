"""Keeps claims alive in stores whose leases expire."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bus.errors import TransportError

logger = logging.getLogger(__name__)

_SHARE = 3  # renewed each third of a lease, so that two tries may fail
_IDLE = 5.0  # seconds without a claim after which the thread ends


@dataclass(slots=True)
class _Lease:
    key: str
    seconds: float
    due: float


class Renewal:
    """Renews claims from a daemon thread, which runs while there are any. Thread-safe.

    ``renew(key, token, lease)`` tells whether the claim is still its token's.
    """

    def __init__(self, renew: Callable[[str, str, float], bool]) -> None:
        self._renew = renew
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._leases: dict[str, _Lease] = {}
        self._thread: threading.Thread | None = None

    def add(self, key: str, token: str, lease: float) -> None:
        """Keep this claim alive from now on."""
        if self._pid != os.getpid():
            self._begin()  # a forked child has neither the thread nor the claims of its parent
        with self._changed:
            self._leases[token] = _Lease(key, lease, time.monotonic() + lease / _SHARE)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bus-renewal", daemon=True)
                self._thread.start()
            elif len(self._leases) == 1:
                self._changed.notify()

    def discard(self, token: str) -> None:
        """Stop renewing a claim."""
        self._leases.pop(token, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                due = [(token, lease) for token, lease in list(self._leases.items()) if lease.due <= now]
                if not due and not self._sleep(now):
                    self._thread = None
                    return
            for token, lease in due:
                self._keep(token, lease)

    def _sleep(self, now: float) -> bool:
        """Wait until something is due; False: there was nothing to renew for a while."""
        leases = list(self._leases.values())
        if leases:
            self._changed.wait(min(lease.due for lease in leases) - now)
            return True
        return self._changed.wait(_IDLE) or bool(self._leases)

    def _keep(self, token: str, lease: _Lease) -> None:
        try:
            if token not in self._leases or self._renew(lease.key, token, lease.seconds):
                lease.due = time.monotonic() + lease.seconds / _SHARE
                return
        except TransportError as error:
            lease.due = time.monotonic() + lease.seconds / _SHARE / 4
            logger.warning('The claim on "%s" could not be renewed; it is tried again: %s', lease.key, error)
            return
        # It may have been completed or released between the two looks.
        if self._leases.pop(token, None) is not None:
            logger.warning('The claim on "%s" was lost: its lease ran out before it was renewed', lease.key)
