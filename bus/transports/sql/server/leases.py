"""Claims by the server's clock, as their holder sees them."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from bus.errors import TransportError
from bus.transports.sql.driver import SqlClaim
from bus.transports.sql.server.statements import LEASE

logger = logging.getLogger(__name__)

BEAT: Final = 5.0  # seconds between two renewals, so that two of them may fail
_AFTER_FAILURE: Final = 1.0  # seconds


class Leases:
    """The leases of one driver: all under one token, renewed from a daemon thread while there are any.

    ``renew`` renews them all; it raises TransportError where that did not succeed.
    """

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self.begin()

    def begin(self) -> None:
        """Begin with a new token: what the old one holds is held no more."""
        self.token = secrets.token_hex(16)
        self._lasting_until = float("-inf")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def end(self) -> None:
        """Stop renewing, and begin anew. Idempotent."""
        self._stop.set()
        self.begin()

    def lasts(self, claimed: float) -> bool:
        """Tell whether a claim lasts that was made at ``claimed``, a reading of the monotonic clock."""
        return time.monotonic() < max(self._lasting_until, claimed + LEASE)

    def start(self) -> None:
        """Renew from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name="bus-heartbeat", daemon=True)
            self._thread.start()

    def _run(self, stop: threading.Event) -> None:
        pause = BEAT
        while not stop.wait(pause):
            began = time.monotonic()
            try:
                self._renew()
                self._lasting_until = began + LEASE
                pause = BEAT
            except TransportError as error:
                pause = _AFTER_FAILURE
                if not stop.is_set():
                    logger.warning("Claims could not be renewed; it is tried again: %s", error)
            except Exception:
                pause = _AFTER_FAILURE
                logger.exception("Claims could not be renewed; it is tried again")


class LeasedClaim(SqlClaim):
    """A claim that ends by itself. ``leases`` and ``claimed_at`` are set by the driver that makes it."""

    __slots__ = ("claimed_at", "leases")

    leases: Leases
    claimed_at: float

    def begin(self) -> bool:
        """Begin an attempt, unless the lease has run out: the message may be somebody else's by now."""
        if not self.leases.lasts(self.claimed_at):
            self.withdraw_unless_begun()
        return super().begin()
