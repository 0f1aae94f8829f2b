"""The clock of a database server, as its clients read it."""

from __future__ import annotations

import time
from typing import Any, Final

from bus.transports.sql.database import Database

_BETWEEN_LOOKS: Final = 30.0  # seconds
# Milliseconds since the epoch.
_QUERIES: Final = {
    "mysql": "SELECT ROUND(UNIX_TIMESTAMP(NOW(3)) * 1000)",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp()) * 1000",
}


class ServerClock:
    """Tells the server's time: asked for each 30 s, and carried on by this machine's monotonic clock meanwhile.

    The time of day of this machine does not matter. ``now`` raises TransportError when the server does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._query = _QUERIES["mysql" if database.dialect.name == "mariadb" else database.dialect.name]
        self._asked_at = float("-inf")
        self._difference = 0.0

    def now(self) -> float:
        """Return seconds since the epoch, UTC."""
        before = time.monotonic()
        if before - self._asked_at > _BETWEEN_LOOKS:
            milliseconds = self._database.read(self._ask)
            after = time.monotonic()
            self._difference = milliseconds / 1000 - (before + after) / 2
            self._asked_at = after
        return time.monotonic() + self._difference

    def monotonic(self) -> float:
        """Return seconds that never go back, for timeouts."""
        return time.monotonic()

    def _ask(self, cursor: Any) -> float:
        cursor.execute(self._query)
        return float(cursor.fetchone()[0])
