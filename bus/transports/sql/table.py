"""What is done to one queue of the table, each step within a transaction that the caller has begun."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bus.transports.base import Counts, Outgoing, Peeked
from bus.transports.sql.connection import DIALECT
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.partitions import lane_of
from bus.transports.sql.rows import HELD, HELD_PARKED, PARKED, from_texts, time_of, time_text, to_texts
from bus.transports.sql.schema import Layout, messages_table
from bus.transports.sql.statements import compile_statements

_BELOW_EVERY_LANE: Final = -(2**31)
_MOST_URGENT: Final = 255  # priorities beyond it are no more urgent, so that a queue has a bounded number of lanes

Parameters = Mapping[str, object]


class Row(NamedTuple):
    """A claimable message. ``place`` is the time by which it is ordered; ``deliveries`` counts the earlier ones.

    ``lane`` is that in which it was found; one that was asked for by its id was found in none.
    """

    id: int
    body: bytes
    headers: bytes
    deliveries: int
    place: bytes
    lane: int = 0

    @property
    def mark(self) -> str:
        """Where it stands while it is held."""
        return HELD if self.place.decode() < PARKED else HELD_PARKED


class QueueTable:
    """One queue in a table of a known layout. Holds no state; a cursor brings the connection."""

    def __init__(self, options: SqlOptions, layout: Layout) -> None:
        self.name = options.table_name
        self.queue = options.queue_name
        self.complete = layout.complete
        self._partitions = options.number_of_partitions
        self._whole_seconds = layout.whole_seconds
        self._redeliver_timeout = options.redeliver_timeout * 1000
        self.statements = compile_statements(messages_table(self.name), DIALECT, complete=layout.complete)

    # --- what is prepared outside a transaction ---

    def rows_of(self, batch: Sequence[Outgoing], now: int) -> Sequence[Parameters]:
        """Return the parameters of new rows; ``now`` is in milliseconds since the epoch."""
        text = self._text(now)
        rows = []
        for outgoing in batch:
            body, headers = to_texts(outgoing.body, outgoing.headers)
            rows.append(
                {
                    "queue": outgoing.origin or self.queue,
                    "body": body,
                    "headers": headers,
                    "now": text,
                    "due": self._due(outgoing, now) if outgoing.delay_ms > 0 else text,
                    "lane": self._lane(outgoing),
                    "message": outgoing.message_id,
                }
            )
        return rows

    def requeued(self, row: int, outgoing: Outgoing, now: int) -> Parameters:
        """Return the parameters that put a held row back into delivery."""
        return self._put_back(row, outgoing, self._due(outgoing, now))

    def parked(self, row: int, outgoing: Outgoing) -> Parameters:
        """Return the parameters that keep a held row without delivering it."""
        return self._put_back(row, outgoing, PARKED)

    # --- steps of a transaction ---

    def insert(self, cursor: sqlite3.Cursor, rows: Sequence[Parameters]) -> list[int]:
        """Insert rows and return their ids."""
        return [cursor.execute(self.statements.insert, row).lastrowid or 0 for row in rows]

    def lanes(self, cursor: sqlite3.Cursor) -> Iterator[int]:
        """Yield the lanes of the queue, the most urgent first: one step down the index for each."""
        lane = _BELOW_EVERY_LANE
        while True:
            parameters = {"queue": self.queue, "lane": lane}
            ((above,),) = cursor.execute(self.statements.next_lane, parameters).fetchall()
            if above is None:
                return
            yield above
            lane = above

    def is_anything_ready(self, cursor: sqlite3.Cursor, lanes: Iterable[int], now: int) -> bool:
        """Tell whether there is something to claim in these lanes, without claiming it."""
        return any(self._ready(cursor, lane, 1, now) for lane in lanes)

    def next_due(self, cursor: sqlite3.Cursor, now: int) -> int | None:
        """Return when the next delayed message becomes due, in milliseconds since the epoch; None: there is none."""
        times = []
        for lane in self.lanes(cursor):
            parameters = {"queue": self.queue, "lane": lane, "now": self._text(now)}
            ((due,),) = cursor.execute(self.statements.next_due, parameters).fetchall()
            if due is not None:
                times.append(due)
        return time_of(min(times).decode()) if times else None

    def claim(self, cursor: sqlite3.Cursor, token: str, lanes: Sequence[int], limit: int, now: int) -> list[Row]:
        """Claim the first messages of these lanes in order, and a message that was delivered before alone."""
        rows: list[Row] = []
        for lane in lanes:
            for row in self._ready(cursor, lane, limit - len(rows), now):
                if row.deliveries and rows:
                    return self._hold(cursor, token, rows, now)
                rows.append(row)
                if row.deliveries:
                    return self._hold(cursor, token, rows, now)
            if len(rows) == limit:
                break
        return self._hold(cursor, token, rows, now)

    def take(self, cursor: sqlite3.Cursor, token: str, row: int, now: int) -> Row | None:
        """Claim this message, whenever it is due; None when it is gone or held."""
        found = cursor.execute(self.statements.one, {"row": row, "queue": self.queue, **self._php(now)}).fetchall()
        return self._hold(cursor, token, [Row(*found[0])], now)[0] if found else None

    def settle(
        self, cursor: sqlite3.Cursor, token: str, removed: Sequence[int], changed: Sequence[Parameters]
    ) -> set[int]:
        """Remove and change held rows; return the ids of those that the token did hold. The others are untouched."""
        ids = [*removed, *(change["row"] for change in changed)]
        owned = cursor.execute(self.statements.owned, {"ids": json.dumps(ids), "token": token}).fetchall()
        if removed:
            cursor.executemany(self.statements.remove, [{"row": row, "token": token} for row in removed])
        if changed:
            cursor.executemany(self.statements.put_back, [{**change, "token": token} for change in changed])
        return {row for (row,) in owned}

    def give_back(self, cursor: sqlite3.Cursor, token: str, places: Mapping[int, str]) -> None:
        """Let held rows go to their old places, as if they had not been delivered."""
        cursor.executemany(
            self.statements.give_back,
            [{"row": row, "place": place, "token": token} for row, place in places.items()],
        )

    def holders(self, cursor: sqlite3.Cursor) -> set[str]:
        """Return the tokens that hold messages of this queue."""
        tokens: set[str] = set()
        for lane in self.lanes(cursor):
            tokens |= self.holders_in(cursor, lane)
        return tokens

    def holders_in(self, cursor: sqlite3.Cursor, lane: int) -> set[str]:
        """Return the tokens that hold messages of one lane."""
        rows = cursor.execute(self.statements.tokens, {"queue": self.queue, "lane": lane}).fetchall()
        return {token.decode() for (token,) in rows if token is not None}

    def free(self, cursor: sqlite3.Cursor, token: str, now: int) -> int:
        """Let go everything that a dead worker's token holds; return how many messages that were."""
        parameters = {"queue": self.queue, "token": token, "now": self._text(now)}
        lanes = list(self.lanes(cursor))
        return sum(cursor.execute(self.statements.free, {**parameters, "lane": lane}).rowcount for lane in lanes)

    def counts(self, cursor: sqlite3.Cursor, now: int) -> Counts:
        """Count the messages by state."""
        parameters = {"queue": self.queue, "now": time_text(now), **self._php(now)}
        ((total, in_flight, parked, delayed),) = cursor.execute(self.statements.counts, parameters).fetchall()
        return Counts(total - in_flight - parked - delayed, delayed, in_flight, parked)

    def peek(self, cursor: sqlite3.Cursor, limit: int, after: int, now: int) -> list[Peeked]:
        """Return the messages behind an id."""
        parameters = {"queue": self.queue, "after": after, "limit": limit, "now": time_text(now), **self._php(now)}
        return [
            Peeked(row, *from_texts(body, headers), state.decode())
            for row, body, headers, state in cursor.execute(self.statements.peek, parameters)
        ]

    # --- parts of these ---

    def _lane(self, outgoing: Outgoing) -> int:
        if outgoing.partition_key is not None and self._partitions:
            return lane_of(outgoing.partition_key, self._partitions)
        return -max(-_MOST_URGENT, min(outgoing.priority, _MOST_URGENT))

    def _ready(self, cursor: sqlite3.Cursor, lane: int, limit: int, now: int) -> list[Row]:
        parameters = {"queue": self.queue, "lane": lane, "limit": limit, "now": time_text(now), **self._php(now)}
        found = cursor.execute(self.statements.ready, parameters).fetchall()
        return [Row(row, body, headers, deliveries, place, lane) for row, body, headers, deliveries, place in found]

    def _hold(self, cursor: sqlite3.Cursor, token: str, rows: list[Row], now: int) -> list[Row]:
        text = self._text(now)
        cursor.executemany(
            self.statements.claim, [{"row": row.id, "token": token, "now": text, "mark": row.mark} for row in rows]
        )
        return rows

    def _put_back(self, row: int, outgoing: Outgoing, due: str) -> Parameters:
        body, headers = to_texts(outgoing.body, outgoing.headers)
        return {"row": row, "new_body": body, "new_headers": headers, "due": due}

    def _due(self, outgoing: Outgoing, now: int) -> str:
        return self._text(now + max(0, outgoing.delay_ms))

    def _text(self, milliseconds: int) -> str:
        return time_text(milliseconds, whole_seconds=self._whole_seconds)

    def _php(self, now: int) -> Parameters:
        return {"php_gave_up": time_text(now - self._redeliver_timeout, whole_seconds=True)}
