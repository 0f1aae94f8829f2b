"""The SQL driver: when the table is made ready, who holds what, and what becomes of errors."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from bus.claim_locks import ClaimLocks, folder_of
from bus.clock import Clock
from bus.errors import ConfigurationError, SendRefused, SendUnknown, TransportError
from bus.forking import forget_in_children
from bus.stamps import SqlReceivedStamp
from bus.transports.base import (
    Ack,
    Claim,
    Counts,
    Delivery,
    Discard,
    Outgoing,
    Park,
    Peeked,
    Requeue,
    Sent,
    Settlement,
)
from bus.transports.dsn import Dsn, options_from
from bus.transports.sql.connection import Database
from bus.transports.sql.options import SqlOptions, database_path
from bus.transports.sql.partitions import FIRST_LANE, Partitions, partition_of
from bus.transports.sql.prepared_table import SEND_DEADLINE, PreparedTable
from bus.transports.sql.rows import from_texts
from bus.transports.sql.table import QueueTable, Row
from bus.unit import Transaction

if TYPE_CHECKING:
    from bus.store.ownership import Ownership
    from bus.transports.registry import DriverContext

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long one call waits for another writer, in seconds. The callers try again as long as they live; a short wait here
# lets a worker notice that it shall stop.
_CALL_DEADLINE = 2.0
_BETWEEN_RECOVERIES = 5.0  # seconds


class SqlClaim(Claim):
    """A claim written into a row.

    ``place`` is the time by which the row was ordered, so that it can go back to where it was.
    """

    __slots__ = ("place",)

    def __init__(self, row: Row, received: SqlReceivedStamp) -> None:
        super().__init__(row.id, row.deliveries + 1, received.queue, received, partition=partition_of(row.lane))
        self.place = row.place.decode()


def create(name: str, dsn: Dsn, options: Mapping[str, object], context: DriverContext) -> SqlDriver:
    """Build the driver of a ``sqlite://``, ``sql://`` or ``doctrine://`` transport."""
    path = database_path(f'Transport "{name}"', dsn, context)
    checked = options_from(SqlOptions, dsn, options, name)
    ownership = None
    if context.ownership is not None:
        ownership = context.ownership(
            f"sqlite:///{quote(str(path))}?auto_setup={str(checked.auto_setup).lower()}",
            f"{checked.table_name}:{checked.queue_name}",
        )
    elif checked.number_of_partitions:
        raise ConfigurationError(f'Transport "{name}": partitions need a store beside the queue, and there is none')
    return SqlDriver(path, checked, context.clock, ownership)


class SqlDriver:
    """Moves messages in and out of one queue of a table. Thread-safe; ``get`` and ``take`` belong to one thread each.

    It connects when it is first used, and again after ``close``. A forked child begins anew: it neither keeps, nor
    settles, nor gives back what its parent claimed.
    """

    def __init__(self, path: Path, options: SqlOptions, clock: Clock, ownership: Ownership | None = None) -> None:
        """Without an ``ownership`` nothing is read from partitions."""
        self._clock = clock
        self._database = Database(path)
        self._prepared = PreparedTable(self._database, options)
        self._locks = ClaimLocks(folder_of(path))
        self._partitions = Partitions(options.number_of_partitions, ownership, self) if ownership is not None else None
        self._ownership = ownership if options.number_of_partitions else None
        self._ordered_window = options.ordered_window if options.ordered else None
        self._begin_without_claims()
        forget_in_children(self)

    def _begin_without_claims(self) -> None:
        self._claiming = threading.Lock()  # around claiming and giving back, so that close sees every claim
        self._held: dict[str | int, SqlClaim] = {}
        self._to_give_back: dict[int, str] = {}  # rows whose claims are withdrawn, and their places
        self._next_recovery = float("-inf")

    # --- sending ---

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Store all messages in one transaction, or none of them; waits up to 5 s for other writers."""
        try:
            table, now = self._prepared.usable(), self._now()
            rows = table.rows_of(batch, now)
            ids = self._write(lambda cursor: table.insert(cursor, rows), SEND_DEADLINE)
        except SendUnknown as error:
            return [_again(SendUnknown, error) for _ in batch]
        except TransportError as error:
            return [_again(SendRefused, error) for _ in batch]
        return [Sent(row) for row in ids]

    def send_in(self, transaction: Transaction, batch: Sequence[Outgoing]) -> bool:
        """Store messages as part of a transaction on the same database; False: it is another one."""
        if transaction.database != self._database.name:
            return False
        cursor: sqlite3.Cursor = transaction.cursor()
        table, now = self._prepared.usable_in(cursor), self._now()
        table.insert(cursor, table.rows_of(batch, now))
        return True

    # --- receiving ---

    def get(self, limit: int) -> Sequence[Delivery]:
        """Claim what is due, by priority, then time. Raises ConnectionLostError where a writer is in the way for 2 s.

        Raises:
            AccessDeniedError: the table lacks what claiming needs and may not be changed.
        """
        if self._partitions is not None:
            self._partitions.start()
        with self._claiming:
            table = self._prepared.claimable()
            if self._clock.monotonic() >= self._next_recovery:
                self._recover(table)
            now = self._now()
            # A look first: an idle worker takes no write lock, and a writer does not stop it.
            lanes = self._read(lambda cursor: self._ready_lanes(table, cursor, now)) if limit > 0 else ()
            if not lanes:
                return ()
            token = self._locks.token()
            rows = self._write(lambda cursor: table.claim(cursor, token, lanes, limit, now), _CALL_DEADLINE)
            return [self._delivery(table, row) for row in rows]

    def seconds_until_due(self) -> float | None:
        """Return the seconds until the next delayed message becomes due; None: none waits."""
        table, now = self._prepared.claimable(), self._now()
        due = self._read(lambda cursor: table.next_due(cursor, now))
        return None if due is None else (due - now) / 1000

    def _ready_lanes(self, table: QueueTable, cursor: sqlite3.Cursor, now: int) -> Sequence[int]:
        """Return the lanes that may be read, or nothing where nothing is ready in them."""
        lanes = list(table.lanes(cursor))
        if self._partitions is not None:
            lanes = list(self._partitions.readable(lanes))
        else:
            lanes = [lane for lane in lanes if lane < FIRST_LANE]
        return lanes if table.is_anything_ready(cursor, lanes, now) else ()

    def take(self, transport_id: str | int) -> Delivery | None:
        """Claim this message, a parked or delayed one too; None when it is gone or held."""
        wanted = _row_id(transport_id)
        if wanted is None:
            return None
        with self._claiming:
            table, token = self._prepared.claimable(), self._locks.token()

            def claim(cursor: sqlite3.Cursor) -> Row | None:
                return table.take(cursor, token, wanted, self._now())

            row = self._write(claim, _CALL_DEADLINE)
            if row is None:
                self._recover(table)  # it may be a dead worker's
                row = self._write(claim, _CALL_DEADLINE)
            return None if row is None else self._delivery(table, row)

    def _delivery(self, table: QueueTable, row: Row) -> Delivery:
        claim = SqlClaim(row, SqlReceivedStamp(row.id, table.name, table.queue))
        self._held[row.id] = claim
        return Delivery(*from_texts(row.body, row.headers), claim)

    def _recover(self, table: QueueTable) -> None:
        """Let go what dead workers hold, and remove their lock files."""
        tokens = self._read(table.holders) | self._locks.tokens()
        for token in sorted(tokens - {self._locks.held_token}):
            with self._locks.dead(token) as dead:
                if dead:
                    self._free(table, token)
        self._next_recovery = self._clock.monotonic() + _BETWEEN_RECOVERIES

    def _free(self, table: QueueTable, token: str) -> None:
        freed = self._write(lambda cursor: table.free(cursor, token, self._now()), _CALL_DEADLINE)
        if freed:
            logger.warning(
                'A worker of queue "%s" went away holding %s messages; they are delivered again', table.queue, freed
            )

    # --- partitions ---

    @property
    def ordered_window(self) -> int | None:
        """How many messages may wait behind failing ones in a partition; None: failing ones hold back none."""
        return self._ordered_window

    def pause(self, partitions: Collection[int]) -> None:
        """Hand out nothing of these partitions from now on, and of the others again."""
        if self._partitions is not None:
            self._partitions.pause(partitions)

    def partitions_in_use(self) -> Collection[int]:
        """Return the partitions in which messages stand."""
        table = self._prepared.claimable()
        lanes = self._read(lambda cursor: list(table.lanes(cursor)))
        return {lane - FIRST_LANE for lane in lanes if lane >= FIRST_LANE}

    def let_go(self, partitions: Collection[int]) -> Collection[int]:
        """Give back what is not begun; return the partitions of which nothing is in hand any more."""
        with self._claiming:
            self._withdraw_unbegun(claim for claim in self._held.copy().values() if claim.partition in partitions)
            self._free_withdrawn()
            in_hand = {claim.partition for claim in list(self._held.values())}
            return set(partitions) - in_hand

    def left_by_others(self, partition: int) -> bool:
        """Free what the dead hold of a partition; tell whether somebody else still holds some of it."""

        def others(cursor: sqlite3.Cursor) -> set[str]:
            return table.holders_in(cursor, FIRST_LANE + partition) - {self._locks.held_token or ""}

        with self._claiming:
            table = self._prepared.claimable()
            if self._read(others):
                self._recover(table)
            return bool(self._read(others))

    def _withdraw_unbegun(self, claims: Iterable[SqlClaim]) -> None:
        for claim in claims:
            if claim.withdraw_unless_begun():
                self._to_give_back[int(claim.transport_id)] = claim.place
                self._held.pop(claim.transport_id, None)

    def _free_withdrawn(self) -> None:
        token, places = self._locks.held_token, dict(self._to_give_back)
        if places and token is not None:
            table = self._prepared.usable()
            self._write(lambda cursor: table.give_back(cursor, token, places), _CALL_DEADLINE)
        self._to_give_back.clear()

    # --- settling ---

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        """Carry out all settlements in one transaction; waits up to 2 s for other writers."""
        table, token, now = self._prepared.usable(), self._locks.held_token, self._now()
        removed: list[int] = []
        changed: list[Mapping[str, object]] = []
        for settlement in batch:
            claim = settlement.claim
            if not self._holds(claim):
                continue
            row = int(claim.transport_id)
            match settlement:
                case Ack() | Discard():
                    removed.append(row)
                case Requeue(_, outgoing):
                    changed.append(table.requeued(row, outgoing, now))
                case Park(_, outgoing):
                    changed.append(table.parked(row, outgoing))
        settled: set[int] = set()
        if token is not None and (removed or changed):
            settled = self._write(lambda cursor: table.settle(cursor, token, removed, changed), _CALL_DEADLINE)
        return [each.claim for each in batch if not self._conclude(each.claim, settled)]

    def _holds(self, claim: Claim) -> bool:
        # By identity: the same row may be held by a later claim of ours, under the same token.
        return self._held.get(claim.transport_id) is claim

    def _conclude(self, claim: Claim, settled: set[int]) -> bool:
        """Take note of what became of a claim; False when it is lost."""
        if not self._holds(claim):
            return False
        del self._held[claim.transport_id]
        if claim.transport_id in settled:
            return True
        claim.withdraw()
        return False

    def give_back(self) -> None:
        """Give back what was not begun."""
        with self._claiming:
            self._withdraw_unbegun(self._held.copy().values())
            self._free_withdrawn()

    def close(self) -> None:
        """Give back what was not begun, let go of every claim and of the connection."""
        with self._claiming:
            self._withdraw_unbegun(self._held.copy().values())
            try:
                self._free_withdrawn()
            except TransportError as error:
                logger.warning(
                    "%s messages could not be given back, and come back counted as delivered: %s",
                    len(self._to_give_back),
                    error,
                )
                self._to_give_back.clear()
            for claim in self._held.copy().values():
                claim.withdraw()
            self._held.clear()
            self._locks.release()
            self._database.close()
            self._next_recovery = float("-inf")
        # Not before its messages stand in their places again; its thread may wait for the lock above.
        if self._partitions is not None:
            self._partitions.close()
            self._database.close()  # that thread may have opened it again

    # --- looking ---

    def counts(self) -> Counts:
        """Count by state; a table that does not exist yet holds nothing."""
        table = self._prepared.existing()
        return Counts(0, 0, 0, 0) if table is None else self._read(lambda cursor: table.counts(cursor, self._now()))

    def peek(self, limit: int, after: str | int | None = None) -> Sequence[Peeked]:
        """Return messages in order of their id, claiming none."""
        table = self._prepared.existing()
        behind = 0 if after is None else _row_id(after)
        if table is None or behind is None:
            return ()
        return self._read(lambda cursor: table.peek(cursor, limit, behind, self._now()))

    def set_up(self) -> None:
        """Create the table, or add what is missing to it. Harmless when called again, also at the same time."""
        self._prepared.set_up()
        if self._ownership is not None:
            self._ownership.set_up()

    def check(self) -> Sequence[str]:
        """Return what the table lacks, as the statements that add it; with partitions, what their store lacks too."""
        return (*self._prepared.lacks(), *(self._ownership.check() if self._ownership is not None else ()))

    # --- the database ---

    def _now(self) -> int:
        return int(self._clock.now() * 1000)

    def _read(self, work: Callable[[sqlite3.Cursor], T]) -> T:
        try:
            return self._database.read(work)
        except TransportError:
            self._prepared.look_again()
            raise

    def _write(self, work: Callable[[sqlite3.Cursor], T], within: float) -> T:
        try:
            return self._database.write(work, within=within)
        except TransportError:
            self._prepared.look_again()  # it may have been dropped or changed
            raise

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        for claim in self._held.values():
            claim.withdraw()
        self._database.forget()
        self._locks.forget()
        if self._partitions is not None:
            self._partitions.forget()
        self._begin_without_claims()


def _row_id(transport_id: str | int) -> int | None:
    """Return the id as a row can have it, or None."""
    text = str(transport_id)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _again(kind: type[TransportError], error: TransportError) -> TransportError:
    """Return an error of its own for each message, because each may be raised somewhere else."""
    outcome = kind(str(error))
    outcome.__cause__ = error
    return outcome
