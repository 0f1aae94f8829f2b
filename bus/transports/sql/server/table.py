"""A queue in a table on a server: what its servers share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from bus.transports.base import Outgoing
from bus.transports.sql.server.statements import ServerStatements
from bus.transports.sql.table import Parameters, QueueTable, Row, fetch

S = TypeVar("S", bound=ServerStatements)

# Milliseconds, some thousand years. What is later than the last year of calendars is never.
_LONGEST_DELAY: Final = 7_900 * 365 * 86_400_000


class ServerTable(QueueTable[S]):
    """One queue in a table of a known layout, in a database server."""

    @abstractmethod
    def claim(self, cursor: Any, token: str, beside: Sequence[int], limit: int) -> Sequence[Row]:
        """Claim the first due messages in order, and a message that was delivered before alone.

        ``beside`` are lane 0 and the lanes of partitions that may be read, in the order of their turns: they stand
        between the more and the less urgent lanes.
        """

    @abstractmethod
    def take(self, cursor: Any, token: str, row: int) -> Row | None:
        """Claim this message, whenever it is due; None when it is gone or held."""

    @abstractmethod
    def renew(self, cursor: Any, token: str, rows: Collection[int]) -> None:
        """Keep these for another lease, where the token still holds them."""

    @abstractmethod
    def release(self, cursor: Any, token: str, places: Mapping[int, object]) -> None:
        """Let held rows go to their old places, counted as delivered."""

    def lanes(self, cursor: Any) -> Iterable[int]:
        """Return the lanes of the queue, the most urgent first."""
        return [lane for (lane,) in fetch(cursor, self.statements.lanes, {"queue": self.queue}) if lane is not None]

    def free(self, cursor: Any, lane: int) -> int:
        """Let go what stands in a lane under leases that are over; return how many messages that were."""
        cursor.execute(self.statements.free, {"queue": self.queue, "lane": lane})
        freed: int = cursor.rowcount
        return freed

    def is_held_by_others(self, cursor: Any, lane: int, token: str) -> bool:
        """Tell whether somebody else holds messages of a lane."""
        ((count,),) = fetch(cursor, self.statements.holders, {"queue": self.queue, "lane": lane, "token": token})
        return bool(count)

    def _due(self, outgoing: Outgoing) -> Parameters:
        return {"delay": max(0, min(outgoing.delay_ms, _LONGEST_DELAY))}

    def _never(self) -> Parameters:
        return {"delay": None}

    def _times(self) -> Parameters:
        return {}

    def _seconds_until(self, due: Any) -> float:
        return max(0.0, float(due) / 1000)
