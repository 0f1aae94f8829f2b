"""The driver on a database server: a claim is a lease, renewed as long as the process lives."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bus.clock import Clock
from bus.errors import TransportError
from bus.transports.base import Delivery
from bus.transports.sql.driver import CALL_DEADLINE, SqlClaim, SqlDriver
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.prepared_table import TableMaker
from bus.transports.sql.server.database import ServerDatabase
from bus.transports.sql.server.leases import LeasedClaim, Leases
from bus.transports.sql.server.statements import LEASE
from bus.transports.sql.server.table import ServerTable
from bus.transports.sql.table import Row

if TYPE_CHECKING:
    from bus.store.ownership import Ownership

logger = logging.getLogger(__name__)

Q = TypeVar("Q", bound=ServerTable[Any])

_BETWEEN_LOOKS_FOR_PARTITIONS: Final = 5.0  # seconds


class ServerDriver(SqlDriver[Q]):
    """Moves messages in and out of one queue of a table on a server."""

    claim_class = LeasedClaim
    acks_last = False

    def __init__(
        self,
        database: ServerDatabase,
        make_table: TableMaker[Q],
        options: SqlOptions,
        clock: Clock,
        ownership: Ownership | None = None,
    ) -> None:
        """Without an ``ownership`` nothing is read from partitions."""
        self._leases = Leases(self._renew)
        super().__init__(database, make_table, options, clock, ownership)

    def _begin_without_claims(self) -> None:
        super()._begin_without_claims()
        self._next_look = float("-inf")

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        super().forget()
        self._leases.begin()

    # --- claiming ---

    @property
    def _token(self) -> str:
        return self._leases.token

    def _claim_rows(self, table: Q, limit: int) -> Sequence[Row]:
        if limit <= 0:
            return ()
        self._claimed_at = time.monotonic()
        if self._partitions is not None and self._claimed_at >= self._next_look:
            self._partitions.notice(self._read(table.lanes))
            self._next_look = self._claimed_at + _BETWEEN_LOOKS_FOR_PARTITIONS
        beside = [0] if self._partitions is None else self._partitions.beside()
        return self._write(lambda cursor: table.claim(cursor, self._token, beside, limit), CALL_DEADLINE, lasts=False)

    def _take_row(self, table: Q, row: int) -> Row | None:
        self._claimed_at = time.monotonic()
        return self._write(lambda cursor: table.take(cursor, self._token, row), CALL_DEADLINE)

    def _delivery(self, table: Q, row: Row) -> Delivery:
        delivery = super()._delivery(table, row)
        assert isinstance(delivery.claim, LeasedClaim)
        delivery.claim.leases, delivery.claim.claimed_at = self._leases, self._claimed_at
        self._leases.start()
        return delivery

    def _left_by_others(self, table: Q, lane: int) -> bool:
        freed = self._write(lambda cursor: table.free(cursor, lane), CALL_DEADLINE)
        if freed:
            logger.warning(
                'A worker of queue "%s" went away holding %s messages; they are delivered again', table.queue, freed
            )
        return self._read(lambda cursor: table.is_held_by_others(cursor, lane, self._token))

    def _let_go(self, begun: Sequence[SqlClaim]) -> None:
        places = {int(claim.transport_id): claim.place for claim in begun}
        if places:
            try:
                table = self._prepared.usable()
                self._write(lambda cursor: table.release(cursor, self._token, places), CALL_DEADLINE)
            except TransportError as error:
                logger.warning("%s messages come back when their leases end: %s", len(places), error)
        self._leases.end()

    # --- the heartbeat ---

    def _renew(self) -> None:
        """Renew every claim, and give back those that ran out before they were begun."""
        claims = [claim for claim in self._held.copy().values() if isinstance(claim, LeasedClaim)]
        over = [claim for claim in claims if not self._leases.lasts(claim.claimed_at)]
        if over:
            logger.warning(
                "%s claims were not renewed for %s s; their messages may be somebody else's now", len(over), LEASE
            )
            with self._claiming:
                self._withdraw_unbegun(over)
                self._free_withdrawn()
        rows = [int(claim.transport_id) for claim in claims if not claim.withdrawn]
        if rows:
            table = self._prepared.usable()
            self._write(lambda cursor: table.renew(cursor, self._token, rows), CALL_DEADLINE, lasts=False)
