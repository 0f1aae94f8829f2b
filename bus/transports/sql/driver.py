"""What the SQL drivers share: when the table is made ready, who holds what, and what becomes of errors."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from bus.clock import Clock
from bus.errors import SendRefused, SendUnknown, TransportError
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
from bus.transports.sql.database import Database
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.partitions import FIRST_LANE, Partitions, partition_of
from bus.transports.sql.prepared_table import SEND_DEADLINE, PreparedTable, Q, TableMaker
from bus.transports.sql.rows import from_texts
from bus.transports.sql.table import Row
from bus.unit import Transaction

if TYPE_CHECKING:
    from bus.store.ownership import Ownership

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long one call waits for another writer, in seconds. The callers try again as long as they live; a short wait here
# lets a worker notice that it shall stop.
CALL_DEADLINE: Final = 2.0


class SqlClaim(Claim):
    """A claim written into a row.

    ``place`` is the time by which the row was ordered, so that it can go back to where it was.
    """

    __slots__ = ("place",)

    def __init__(self, row: Row, received: SqlReceivedStamp) -> None:
        super().__init__(row.id, row.deliveries + 1, received.queue, received, partition=partition_of(row.lane))
        self.place = row.place


class SqlDriver(ABC, Generic[Q]):
    """Moves messages in and out of one queue of a table. Thread-safe; ``get`` and ``take`` belong to one thread each.

    It connects when it is first used, and again after ``close``. A forked child begins anew: it neither keeps, nor
    settles, nor gives back what its parent claimed. How claims are made and kept depends on the database.
    """

    claim_class: ClassVar[type[SqlClaim]] = SqlClaim
    single_statements: ClassVar[bool] = False  # each step is one statement, which needs no transaction around it
    acks_last: ClassVar[bool] = True  # an acknowledgement waits for the disk

    def __init__(
        self,
        database: Database,
        make_table: TableMaker[Q],
        options: SqlOptions,
        clock: Clock,
        ownership: Ownership | None,
    ) -> None:
        """Without an ``ownership`` nothing is read from partitions."""
        self._clock = clock
        self._database = database
        self._prepared = PreparedTable(database, options, make_table)
        self._partitions = Partitions(options.number_of_partitions, ownership, self) if ownership is not None else None
        self._ownership = ownership if options.number_of_partitions else None
        self._ordered_window = options.ordered_window if options.ordered else None
        self._begin_without_claims()
        forget_in_children(self)

    def _begin_without_claims(self) -> None:
        self._claiming = threading.Lock()  # around claiming and giving back, so that close sees every claim
        self._held: dict[str | int, SqlClaim] = {}
        self._to_give_back: dict[int, object] = {}  # rows whose claims are withdrawn, and their places

    # --- what differs between databases ---

    @property
    @abstractmethod
    def _token(self) -> str | None:
        """The token under which this driver holds messages, if it has one."""

    @abstractmethod
    def _claim_rows(self, table: Q, limit: int) -> Sequence[Row]:
        """Claim what is due, within the lock around claiming."""

    @abstractmethod
    def _take_row(self, table: Q, row: int) -> Row | None:
        """Claim this row, whenever it is due."""

    @abstractmethod
    def _left_by_others(self, table: Q, lane: int) -> bool:
        """Free what the dead hold of a lane; tell whether somebody else still holds some of it."""

    @abstractmethod
    def _let_go(self, begun: Sequence[SqlClaim]) -> None:
        """Let go of the token and of what is held under it: what was begun, which comes back counted. Never raises."""

    # --- sending ---

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Store all messages in one transaction, or none of them; waits up to 5 s for other writers."""
        try:
            table = self._prepared.usable()
            rows = table.rows_of(batch)
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
        cursor = transaction.cursor()
        table = self._prepared.usable_in(cursor)
        table.insert(cursor, table.rows_of(batch))
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
            return [self._delivery(table, row) for row in self._claim_rows(table, limit)]

    def seconds_until_due(self) -> float | None:
        """Return the seconds until the next delayed message becomes due; None: none waits."""
        table = self._prepared.claimable()
        return self._read(table.seconds_until_due)

    def take(self, transport_id: str | int) -> Delivery | None:
        """Claim this message, a parked or delayed one too; None when it is gone or held."""
        wanted = _row_id(transport_id)
        if wanted is None:
            return None
        with self._claiming:
            table = self._prepared.claimable()
            row = self._take_row(table, wanted)
            return None if row is None else self._delivery(table, row)

    def _delivery(self, table: Q, row: Row) -> Delivery:
        claim = self.claim_class(row, SqlReceivedStamp(row.id, table.name, table.queue))
        self._held[row.id] = claim
        return Delivery(*from_texts(row.body, row.headers), claim)

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
        with self._claiming:
            return self._left_by_others(self._prepared.claimable(), FIRST_LANE + partition)

    def _withdraw_unbegun(self, claims: Iterable[SqlClaim]) -> None:
        for claim in claims:
            if claim.withdraw_unless_begun():
                self._to_give_back[int(claim.transport_id)] = claim.place
                self._held.pop(claim.transport_id, None)

    def _free_withdrawn(self) -> None:
        token, places = self._token, dict(self._to_give_back)
        if places and token is not None:
            table = self._prepared.usable()
            self._write(lambda cursor: table.give_back(cursor, token, places), CALL_DEADLINE)
        self._to_give_back.clear()

    # --- settling ---

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        """Carry out all settlements in one transaction; waits up to 2 s for other writers."""
        table, token = self._prepared.usable(), self._token
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
                    changed.append(table.requeued(row, outgoing))
                case Park(_, outgoing):
                    changed.append(table.parked(row, outgoing))
        settled: set[int] = set()
        if token is not None and (removed or changed):
            settled = self._write(
                lambda cursor: table.settle(cursor, token, removed, changed),
                CALL_DEADLINE,
                lasts=self.acks_last or bool(changed),
            )
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
            begun = list(self._held.copy().values())
            for claim in begun:
                claim.withdraw()
            self._held.clear()
            self._let_go(begun)
            self._database.close()
        # Not before its messages stand in their places again; its thread may wait for the lock above.
        if self._partitions is not None:
            self._partitions.close()
            self._database.close()  # that thread may have opened it again

    # --- looking ---

    def counts(self) -> Counts:
        """Count by state; a table that does not exist yet holds nothing."""
        table = self._prepared.existing()
        return Counts(0, 0, 0, 0) if table is None else self._read(table.counts)

    def peek(self, limit: int, after: str | int | None = None) -> Sequence[Peeked]:
        """Return messages in order of their id, claiming none."""
        table = self._prepared.existing()
        behind = 0 if after is None else _row_id(after)
        if table is None or behind is None:
            return ()
        return self._read(lambda cursor: table.peek(cursor, limit, behind))

    def set_up(self) -> None:
        """Create the table, or add what is missing to it. Harmless when called again, also at the same time."""
        self._prepared.set_up()
        if self._ownership is not None:
            self._ownership.set_up()

    def check(self) -> Sequence[str]:
        """Return what the table lacks, as the statements that add it; with partitions, what their store lacks too."""
        return (*self._prepared.lacks(), *(self._ownership.check() if self._ownership is not None else ()))

    def ddl(self) -> Sequence[str]:
        """Return the statements that ``set_up`` would execute now."""
        return (*self._prepared.ddl(), *(self._ownership.ddl() if self._ownership is not None else ()))

    # --- the database ---

    def _read(self, work: Callable[[Any], T]) -> T:
        try:
            return self._database.read(work)
        except TransportError:
            self._prepared.look_again()
            raise

    def _write(self, work: Callable[[Any], T], within: float, *, lasts: bool = True) -> T:
        try:
            return self._database.write(work, within=within, lasts=lasts, single=self.single_statements)
        except TransportError:
            self._prepared.look_again()  # it may have been dropped or changed
            raise

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        for claim in self._held.values():
            claim.withdraw()
        self._database.forget()
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
