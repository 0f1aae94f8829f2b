"""A queue in a SQLite table: claims are marks that have no end, and the times are texts that this process writes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from bus.clock import Clock
from bus.transports.base import Outgoing
from bus.transports.sql.connection import DIALECT
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.rows import HELD, HELD_PARKED, PARKED, time_of, time_text
from bus.transports.sql.schema import Layout, messages_table
from bus.transports.sql.sqlite_statements import SqliteBuilder, SqliteStatements
from bus.transports.sql.statements import compiled
from bus.transports.sql.table import Parameters, QueueTable, Row

_BELOW_EVERY_LANE: Final = -(2**31)


class SqliteTable(QueueTable[SqliteStatements]):
    """One queue in a table of a known layout, in a SQLite database."""

    def __init__(self, options: SqlOptions, layout: Layout, clock: Clock) -> None:
        builder = SqliteBuilder(messages_table(options.table_name), complete=layout.complete)
        super().__init__(options, layout, compiled(SqliteStatements, builder, DIALECT))
        self._clock = clock
        self._whole_seconds = layout.whole_seconds
        self._redeliver_timeout = options.redeliver_timeout * 1000

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

    def is_anything_ready(self, cursor: sqlite3.Cursor, lanes: Iterable[int]) -> bool:
        """Tell whether there is something to claim in these lanes, without claiming it."""
        times = self._times()
        return any(self._ready(cursor, lane, 1, times) for lane in lanes)

    def claim(self, cursor: sqlite3.Cursor, token: str, lanes: Sequence[int], limit: int) -> list[Row]:
        """Claim the first messages of these lanes in order, and a message that was delivered before alone."""
        rows: list[Row] = []
        times = self._times()
        for lane in lanes:
            for row in self._ready(cursor, lane, limit - len(rows), times):
                if row.deliveries and rows:
                    return self._hold(cursor, token, rows)
                rows.append(row)
                if row.deliveries:
                    return self._hold(cursor, token, rows)
            if len(rows) == limit:
                break
        return self._hold(cursor, token, rows)

    def take(self, cursor: sqlite3.Cursor, token: str, row: int) -> Row | None:
        """Claim this message, whenever it is due; None when it is gone or held."""
        parameters = {"row": row, "queue": self.queue, **self._times()}
        found = cursor.execute(self.statements.one, parameters).fetchall()
        return self._hold(cursor, token, [Row(*found[0])])[0] if found else None

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

    def give_back(self, cursor: sqlite3.Cursor, token: str, places: Mapping[int, object]) -> None:
        """Let held rows go to their old places, as if they had not been delivered."""
        # A place was read as bytes, and would be stored as such.
        super().give_back(cursor, token, {row: _text(place) for row, place in places.items()})

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

    def free(self, cursor: sqlite3.Cursor, token: str) -> int:
        """Let go everything that a dead worker's token holds; return how many messages that were."""
        parameters = {"queue": self.queue, "token": token, "now": self._text(self._now())}
        lanes = list(self.lanes(cursor))
        return sum(cursor.execute(self.statements.free, {**parameters, "lane": lane}).rowcount for lane in lanes)

    # --- the time, told by this process ---

    def _due(self, outgoing: Outgoing) -> Parameters:
        now = self._now()
        text = self._text(now)
        return {"now": text, "due": self._text(now + outgoing.delay_ms) if outgoing.delay_ms > 0 else text}

    def _never(self) -> Parameters:
        return {"due": PARKED}

    def _times(self) -> Parameters:
        now = self._now()
        return {"now": time_text(now), "php_gave_up": time_text(now - self._redeliver_timeout, whole_seconds=True)}

    def _seconds_until(self, due: bytes) -> float:
        return (time_of(due.decode()) - self._now()) / 1000

    def _now(self) -> int:
        return int(self._clock.now() * 1000)

    def _text(self, milliseconds: int) -> str:
        return time_text(milliseconds, whole_seconds=self._whole_seconds)

    # --- parts of these ---

    def _ready(self, cursor: sqlite3.Cursor, lane: int, limit: int, times: Parameters) -> list[Row]:
        parameters = {"queue": self.queue, "lane": lane, "limit": limit, **times}
        found = cursor.execute(self.statements.ready, parameters).fetchall()
        return [Row(row, body, headers, deliveries, place, lane) for row, body, headers, deliveries, place in found]

    def _hold(self, cursor: sqlite3.Cursor, token: str, rows: list[Row]) -> list[Row]:
        text = self._text(self._now())
        cursor.executemany(
            self.statements.claim, [{"row": row.id, "token": token, "now": text, "mark": _mark(row)} for row in rows]
        )
        return rows


def _mark(row: Row) -> str:
    """Return where a row stands while it is held."""
    return HELD if row.place.decode() < PARKED else HELD_PARKED


def _text(place: object) -> str:
    assert isinstance(place, bytes)
    return place.decode()
