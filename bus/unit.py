"""The unit of one handler call: its work, its records and its sends belong together.

What is sent inside waits for the handler's success. With a transaction everything is committed together; without one
the sends leave first, confirmed, and the records follow.

The running unit stands in a ContextVar. Tasks inherit it; threads inherit it where they are started with a copied
context (``asyncio.to_thread``, and every thread that this package starts for a handler).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from bus import aio, failpoints
from bus.envelope import Envelope
from bus.errors import DelayedMessageHandlingError

if TYPE_CHECKING:
    from bus.errors import TransportError
    from bus.transports.base import Outgoing, Sent

logger = logging.getLogger(__name__)

current_unit: ContextVar[Unit | SendBatch | None] = ContextVar("bus_current_unit", default=None)


# One lock for all units: it is held for a few instructions, and a lock per call would cost more than it saves.
_lock = threading.Lock()
# Held across a fork, so that no other thread can hold it then and leave it locked in the child for ever.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _leave_the_parents_unit() -> None:
    """In a child that a handler forked: what was held there would be lost, for only the parent ends the handler."""
    current_unit.set(None)


os.register_at_fork(after_in_child=_leave_the_parents_unit)


class Sender(Protocol):
    """Where a unit's messages leave: a transport."""

    name: str

    def send_all(self, batch: Sequence[Outgoing]) -> None:
        """Send encoded messages, confirmed; raise when one of them did not get through."""

    def send_each(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Send encoded messages, confirmed, and return what became of each."""

    def send_in(self, transaction: Transaction, batch: Sequence[Outgoing]) -> bool:
        """Store encoded messages as part of a transaction; False: this transport is not in its database."""


class Transaction(Protocol):
    """A database transaction that a unit commits or rolls back. Used by one thread at a time.

    Attributes:
        database: which database it is; equal for every way to say it.
    """

    database: str

    def cursor(self) -> Any:
        """Return a DBAPI cursor inside the transaction, which begins now if it has not."""

    def take_over(self, held: Mapping[Sender, Sequence[Outgoing]]) -> None:
        """Store what is to be sent as part of the transaction."""

    def after_commit(self, note: Callable[[], None]) -> None:
        """Have something done when it is committed, that need not be done. It must not raise."""

    def commit(self) -> None:
        """Commit. Raises where that failed, or may have failed."""

    def roll_back(self) -> None:
        """Undo everything. Never raises; harmless after a commit."""

    def relay(self) -> None:
        """Send what the commit has made sure. Never raises: what cannot be sent now is sent later."""


class Unit:
    """What belongs to one handler's call. ``envelope`` is the message that is being handled; None for a batch of them.

    A call inside a unit with a transaction joins it, within a savepoint, unless it enlists another database.

    Attributes:
        transaction: what its work is part of, until it is committed or rolled back.
        waits: it has succeeded but for the messages that it put off; ``finish`` ends it.
    """

    # Defaults on the class, and no slots: a unit is made for every call of a handler, and few units need more than two.
    transaction: Transaction | None = None
    _held: dict[Sender, list[Outgoing]] | None = None
    _open = True
    _before_commit: list[Callable[[], None]] | None = None
    _after_commit: list[Callable[[], None]] | None = None
    _after_failure: list[Callable[[], None]] | None = None
    _deferred: list[Callable[[], object]] | None = None
    _outer: Unit | None = None
    _savepoint: str | None = None
    waits = False

    def __init__(self, envelope: Envelope | None, outer: Unit | SendBatch | None = None) -> None:
        self.envelope = envelope
        if outer is not None and type(outer) is Unit:
            self._outer = outer
            if outer.transaction is not None and outer._open:
                self._join(outer.transaction)

    # --- what the parts of the handler stack register ---

    def enlist(self, transaction: Transaction) -> None:
        """Make the transaction of this handler's work the unit's own: it is committed or rolled back with it."""
        self.transaction, self._savepoint = transaction, None

    def before_commit(self, write: Callable[[], None]) -> None:
        """Have a record written when the handler and its sends have succeeded. What it raises fails the handler."""
        if self._before_commit is None:
            self._before_commit = []
        self._before_commit.append(write)

    def after_commit(self, note: Callable[[], None]) -> None:
        """Have something done once the unit's transaction is committed. It must not raise."""
        if self._after_commit is None:
            self._after_commit = []
        self._after_commit.append(note)

    def after_failure(self, undo: Callable[[], None]) -> None:
        """Have something undone when the unit has failed and was rolled back."""
        if self._after_failure is None:
            self._after_failure = []
        self._after_failure.append(undo)

    def hold(self, sender: Sender, outgoing: Outgoing) -> bool:
        """Keep a message until the handler has succeeded.

        False when the unit is closed already (a task that outlived its handler): the caller then sends at once.
        """
        with _lock:
            if not self._open:
                return False
            if self._held is None:
                self._held = {}
            self._held.setdefault(sender, []).append(outgoing)
            return True

    def defer(self, call: Callable[[], object]) -> bool:
        """Have something done when all handlers of the outermost message are through; False: the unit is closed.

        It is part of this handler's success, whose records are written after it.
        """
        with _lock:
            if self._open:
                if self._deferred is None:
                    self._deferred = []
                self._deferred.append(call)
            return self._open

    # --- how it ends ---

    def succeed(self) -> None:
        """Commit, or send what was held, confirmed, and then write the records; in the order of the dispatches.

        Raises what the database, a transport or a record raises. The caller then calls ``fail``.
        """
        held = self._close()
        if self._deferred is not None and self._savepoint is None:
            self._succeed_but_for_the_deferred(held)
            return
        if self.transaction is None:
            if held:
                self._send(held)
            for write in self._before_commit or ():
                write()
        elif self._savepoint is not None:
            self._hand_over(self.transaction, self._savepoint, held)
        else:
            aio.blocking(self._commit, self.transaction, held, self._before_commit or ())

    def finish(self) -> None:
        """Do what was put off, and then write the records.

        Raises:
            DelayedMessageHandlingError: some of it failed. The caller then calls ``fail``.
        """
        errors: list[BaseException] = []
        for call in self._deferred or ():
            try:
                call()
            except Exception as error:  # noqa: BLE001 - the others are still done; all errors are raised together
                errors.append(error)
        if errors:
            raise DelayedMessageHandlingError(errors)
        for write in self._before_commit or ():
            write()

    def fail(self) -> None:
        """Roll back and drop what was held: the handler will run again, and send it again. Never raises."""
        self._close()
        if self.transaction is not None:
            try:
                aio.blocking(self._roll_back, self.transaction)
            except Exception:
                logger.exception("The transaction of a failed handler call could not be rolled back")
        for undo in self._after_failure or ():
            try:
                undo()
            except Exception:
                logger.exception("Undoing a part of a failed handler call failed")

    def joined(self) -> bool:
        """Tell whether the transaction is that of the call around this one."""
        return self._savepoint is not None

    def transaction_on(self, database: str) -> Transaction | None:
        """Return the open transaction on this database that the running call is part of, if any."""
        unit: Unit | None = self
        while unit is not None:
            transaction = unit.transaction
            if transaction is not None and transaction.database == database:
                return transaction
            unit = unit._outer
        return None

    def _succeed_but_for_the_deferred(self, held: dict[Sender, list[Outgoing]] | None) -> None:
        # The records stay out of the commit: a handler that is noted as done is not called again, and what it put off
        # would be lost with this process.
        if self.transaction is not None:
            aio.blocking(self._commit, self.transaction, held, ())
        else:
            self._send(held)
        if self._outer is not None and self._outer._open:
            self._leave_to(self._outer)
        else:
            self.waits = True

    def _send(self, held: dict[Sender, list[Outgoing]] | None) -> None:
        for sender, batch in (held or {}).items():
            sender.send_all(batch)
        if held:
            failpoints.reach("held_sent")

    def _commit(
        self,
        transaction: Transaction,
        held: Mapping[Sender, Sequence[Outgoing]] | None,
        records: Iterable[Callable[[], None]],
    ) -> None:
        if held:
            transaction.take_over(held)
        for write in records:
            write()
        failpoints.reach("before_commit")
        transaction.commit()
        self.transaction = None
        failpoints.reach("after_commit")
        for note in self._after_commit or ():
            note()
        transaction.relay()

    def _roll_back(self, transaction: Transaction) -> None:
        if self._savepoint is None:
            transaction.roll_back()
        else:
            try:
                transaction.cursor().execute(f"ROLLBACK TO SAVEPOINT {self._savepoint}")
            except Exception:
                logger.exception("A nested call could not be rolled back; the call around it is")
                transaction.roll_back()
        self.transaction = None

    def _join(self, transaction: Transaction) -> None:
        self._savepoint = f"bus_unit_{id(self):x}"
        transaction.cursor().execute(f"SAVEPOINT {self._savepoint}")
        self.transaction = transaction

    def _hand_over(self, transaction: Transaction, savepoint: str, held: dict[Sender, list[Outgoing]] | None) -> None:
        """Leave everything to the call around this one."""
        outer = self._outer
        assert outer is not None
        transaction.cursor().execute(f"RELEASE SAVEPOINT {savepoint}")
        for sender, batch in (held or {}).items():
            for outgoing in batch:
                outer.hold(sender, outgoing)
        for note in self._after_commit or ():
            outer.after_commit(note)
        self._leave_to(outer)
        self.transaction = None

    def _leave_to(self, outer: Unit) -> None:
        for write in self._before_commit or ():
            outer.before_commit(write)
        for undo in self._after_failure or ():
            outer.after_failure(undo)
        for call in self._deferred or ():
            outer.defer(call)

    def _close(self) -> dict[Sender, list[Outgoing]] | None:
        with _lock:
            held, self._held, self._open = self._held, None, False
            return held


class SendBatch:
    """Collects what the messages of one ``dispatch_many`` send. ``position`` is that of the message being dispatched.

    Used by one thread. It stands where a unit stands, and is no handler's: ``envelope`` is None.
    """

    __slots__ = ("_open", "_sends", "_undo", "position")

    envelope = None

    def __init__(self) -> None:
        self.position = 0
        self._open = True
        self._undo: dict[int, list[Callable[[], None]]] = {}
        self._sends: dict[Sender, list[tuple[int, Outgoing]]] = {}

    def hold(self, sender: Sender, outgoing: Outgoing) -> bool:
        """Collect a message of the current position; False when the batch has left: the caller then sends at once."""
        if self._open:
            self._sends.setdefault(sender, []).append((self.position, outgoing))
        return self._open

    def after_failure(self, undo: Callable[[], None]) -> None:
        """Have something undone when the message of the current position was not sent."""
        self._undo.setdefault(self.position, []).append(undo)

    def fail(self, position: int) -> None:
        """Undo what belongs to a message that was not sent."""
        for undo in self._undo.pop(position, ()):
            undo()

    def by_sender(self) -> dict[Sender, list[tuple[int, Outgoing]]]:
        """Return what was collected, with the position of the message that it came from. Nothing more is collected."""
        self._open = False
        return self._sends


def transaction_on(database: str) -> Transaction | None:
    """Return the open transaction on this database that the running handler's call is part of, if any."""
    unit = current_unit.get()
    return unit.transaction_on(database) if type(unit) is Unit else None
