"""The driver on SQLite: a claim is kept without writing, by a file lock that the process holds as long as it lives."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bus.claim_locks import ClaimLocks, folder_of
from bus.clock import Clock
from bus.transports.sql.connection import SqliteDatabase
from bus.transports.sql.driver import CALL_DEADLINE, SqlClaim, SqlDriver
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.partitions import FIRST_LANE
from bus.transports.sql.sqlite_table import SqliteTable
from bus.transports.sql.table import Row

if TYPE_CHECKING:
    from bus.store.ownership import Ownership

logger = logging.getLogger(__name__)

_BETWEEN_RECOVERIES = 5.0  # seconds


class SqliteDriver(SqlDriver[SqliteTable]):
    """Moves messages in and out of one queue of a table in a SQLite file."""

    def __init__(self, path: Path, options: SqlOptions, clock: Clock, ownership: Ownership | None = None) -> None:
        """Without an ``ownership`` nothing is read from partitions."""
        self._locks = ClaimLocks(folder_of(path))
        super().__init__(
            SqliteDatabase(path),
            lambda options, layout: SqliteTable(options, layout, clock),
            options,
            clock,
            ownership,
        )

    def _begin_without_claims(self) -> None:
        super()._begin_without_claims()
        self._next_recovery = float("-inf")

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        super().forget()
        self._locks.forget()

    # --- claiming ---

    @property
    def _token(self) -> str | None:
        return self._locks.held_token

    def _claim_rows(self, table: SqliteTable, limit: int) -> Sequence[Row]:
        if self._clock.monotonic() >= self._next_recovery:
            self._recover(table)
        # A look first: an idle worker takes no write lock, and a writer does not stop it.
        lanes = self._read(lambda cursor: self._ready_lanes(table, cursor)) if limit > 0 else ()
        if not lanes:
            return ()
        token = self._locks.token()
        return self._write(lambda cursor: table.claim(cursor, token, lanes, limit), CALL_DEADLINE)

    def _ready_lanes(self, table: SqliteTable, cursor: sqlite3.Cursor) -> Sequence[int]:
        """Return the lanes that may be read, or nothing where nothing is ready in them."""
        lanes = list(table.lanes(cursor))
        if self._partitions is not None:
            lanes = list(self._partitions.readable(lanes))
        else:
            lanes = [lane for lane in lanes if lane < FIRST_LANE]
        return lanes if table.is_anything_ready(cursor, lanes) else ()

    def _take_row(self, table: SqliteTable, row: int) -> Row | None:
        token = self._locks.token()

        def claim(cursor: sqlite3.Cursor) -> Row | None:
            return table.take(cursor, token, row)

        taken = self._write(claim, CALL_DEADLINE)
        if taken is None:
            self._recover(table)  # it may be a dead worker's
            taken = self._write(claim, CALL_DEADLINE)
        return taken

    def _left_by_others(self, table: SqliteTable, lane: int) -> bool:
        def others(cursor: sqlite3.Cursor) -> set[str]:
            return table.holders_in(cursor, lane) - {self._locks.held_token or ""}

        if self._read(others):
            self._recover(table)
        return bool(self._read(others))

    def _let_go(self, begun: Sequence[SqlClaim]) -> None:
        self._locks.release()
        self._next_recovery = float("-inf")

    # --- the dead ---

    def _recover(self, table: SqliteTable) -> None:
        """Let go what dead workers hold, and remove their lock files."""
        tokens = self._read(table.holders) | self._locks.tokens()
        for token in sorted(tokens - {self._locks.held_token}):
            with self._locks.dead(token) as dead:
                if dead:
                    self._free(table, token)
        self._next_recovery = self._clock.monotonic() + _BETWEEN_RECOVERIES

    def _free(self, table: SqliteTable, token: str) -> None:
        freed = self._write(lambda cursor: table.free(cursor, token), CALL_DEADLINE)
        if freed:
            logger.warning(
                'A worker of queue "%s" went away holding %s messages; they are delivered again', table.queue, freed
            )
