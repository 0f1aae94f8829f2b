"""What is done to one queue of the table, each step within a transaction that the caller has begun."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from bus.transports.base import Counts, Outgoing, Peeked
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.partitions import lane_of
from bus.transports.sql.rows import from_texts, to_texts
from bus.transports.sql.schema import Layout
from bus.transports.sql.statements import Statements

S = TypeVar("S", bound=Statements)

_MOST_URGENT: Final = 255  # priorities beyond it are no more urgent, so that a queue has a bounded number of lanes

Parameters = Mapping[str, object]


class Row(NamedTuple):
    """A claimable message. ``place`` is the time by which it is ordered; ``deliveries`` counts the earlier ones.

    ``lane`` is that in which it was found; one that was asked for by its id was found in none.
    """

    id: int
    body: bytes | str
    headers: bytes | str
    deliveries: int
    place: Any
    lane: int = 0


class QueueTable(ABC, Generic[S]):
    """One queue in a table of a known layout. Holds no state; a DBAPI cursor brings the connection."""

    def __init__(self, options: SqlOptions, layout: Layout, statements: S) -> None:
        self.name = options.table_name
        self.queue = options.queue_name
        self.complete = layout.complete
        self.statements = statements
        self._partitions = options.number_of_partitions

    # --- what is prepared outside a transaction ---

    def rows_of(self, batch: Sequence[Outgoing]) -> Sequence[Parameters]:
        """Return the parameters of new rows."""
        rows = []
        for outgoing in batch:
            body, headers = to_texts(outgoing.body, outgoing.headers)
            rows.append(
                {
                    "queue": outgoing.origin or self.queue,
                    "body": body,
                    "headers": headers,
                    "lane": self._lane(outgoing),
                    "message": outgoing.message_id,
                    **self._due(outgoing),
                }
            )
        return rows

    def requeued(self, row: int, outgoing: Outgoing) -> Parameters:
        """Return the parameters that put a held row back into delivery."""
        return self._put_back(row, outgoing, self._due(outgoing))

    def parked(self, row: int, outgoing: Outgoing) -> Parameters:
        """Return the parameters that keep a held row without delivering it."""
        return self._put_back(row, outgoing, self._never())

    # --- steps of a transaction ---

    @abstractmethod
    def insert(self, cursor: Any, rows: Sequence[Parameters]) -> Sequence[int]:
        """Insert rows and return their ids."""

    @abstractmethod
    def lanes(self, cursor: Any) -> Iterable[int]:
        """Return the lanes of the queue, the most urgent first."""

    @abstractmethod
    def settle(self, cursor: Any, token: str, removed: Sequence[int], changed: Sequence[Parameters]) -> set[int]:
        """Remove and change held rows; return the ids of those that the token did hold. The others are untouched."""

    def seconds_until_due(self, cursor: Any) -> float | None:
        """Return the seconds until the next delayed message becomes due; None: there is none."""
        waits = []
        for lane in self.lanes(cursor):
            ((due,),) = fetch(cursor, self.statements.next_due, {"queue": self.queue, "lane": lane, **self._times()})
            if due is not None:
                waits.append(self._seconds_until(due))
        return min(waits, default=None)

    def give_back(self, cursor: Any, token: str, places: Mapping[int, object]) -> None:
        """Let held rows go to their old places, as if they had not been delivered."""
        cursor.executemany(
            self.statements.give_back,
            [{"row": row, "place": place, "token": token} for row, place in sorted(places.items())],
        )

    def counts(self, cursor: Any) -> Counts:
        """Count the messages by state."""
        parameters = {"queue": self.queue, **self._times()}
        ((total, in_flight, parked, delayed),) = fetch(cursor, self.statements.counts, parameters)
        return Counts(total - in_flight - parked - delayed, delayed, in_flight, parked)

    def peek(self, cursor: Any, limit: int, after: int) -> list[Peeked]:
        """Return the messages behind an id."""
        parameters = {"queue": self.queue, "after": after, "limit": limit, **self._times()}
        return [
            Peeked(row, *from_texts(body, headers), state.decode() if isinstance(state, bytes) else state)
            for row, body, headers, state in fetch(cursor, self.statements.peek, parameters)
        ]

    # --- how this database tells the time ---

    @abstractmethod
    def _due(self, outgoing: Outgoing) -> Parameters:
        """Return the parameters that say when a message becomes due."""

    @abstractmethod
    def _never(self) -> Parameters:
        """Return the parameters that say that a message never becomes due."""

    @abstractmethod
    def _times(self) -> Parameters:
        """Return what the statements are told of the present time."""

    @abstractmethod
    def _seconds_until(self, due: Any) -> float:
        """Return the seconds until a time that ``next_due`` has found."""

    # --- parts of these ---

    def _lane(self, outgoing: Outgoing) -> int:
        if outgoing.partition_key is not None and self._partitions:
            return lane_of(outgoing.partition_key, self._partitions)
        return -max(-_MOST_URGENT, min(outgoing.priority, _MOST_URGENT))

    def _put_back(self, row: int, outgoing: Outgoing, due: Parameters) -> Parameters:
        body, headers = to_texts(outgoing.body, outgoing.headers)
        return {"row": row, "new_body": body, "new_headers": headers, **due}


def fetch(cursor: Any, statement: str, parameters: Parameters) -> Sequence[Sequence[Any]]:
    """Execute a statement and return all its rows."""
    cursor.execute(statement, parameters)
    rows: Sequence[Sequence[Any]] = cursor.fetchall()
    return rows
