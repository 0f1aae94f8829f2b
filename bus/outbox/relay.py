"""The relay of one outbox: sends what waits in it, right after the commit and again later.

A row is removed only when its transport has confirmed the message, so a crash between the two sends it twice, with the
same id. Rows are found by their state and never by how far an earlier look got: a transaction that began earlier may
commit later.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from bus import failpoints
from bus.clock import Clock
from bus.errors import SendRefused, TransportError
from bus.forking import forget_in_children
from bus.outbox.table import TABLE_NAME, OutboxTable, Waiting
from bus.store.claims import Claims, ClaimState
from bus.transports.base import Outgoing, Sent
from bus.transports.sql.database import Database
from bus.transports.sql.databases import clock_of
from bus.unit import Transaction

logger = logging.getLogger(__name__)

_WRITERS_TIME: Final = 15_000  # milliseconds that a row is left to the process that wrote it, or that claimed it
_BETWEEN_SWEEPS: Final = 5.0  # seconds
_BETWEEN_LOOKS: Final = 1.0  # seconds, of the process that sends the rows with a key
_AT_ONCE: Final = 100
_FIRST_WAIT: Final = 5_000  # milliseconds after a failed send, doubling
_LONGEST_WAIT: Final = 300_000
_PATIENCE: Final = 30.0  # seconds that a step waits for other writers: longer than a handler that writes should take
_SERVERS_PATIENCE: Final = 5.0  # the same on servers, where nobody waits for a writer


class Carrier(Protocol):
    """A transport, past any outbox of its own."""

    name: str

    def deliver(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Send encoded messages, confirmed, and return what became of each."""


class Outbox:
    """The outbox in one database, and its relay. Thread-safe.

    Every process that writes to it or works on transports of its messenger sweeps it, at the start and each 5 s, from
    a daemon thread. Rows with a partition key are sent by one process only, in their order: the one that has claimed
    ``outbox:<database>`` in the store.
    """

    def __init__(
        self, database: Database, carriers: Mapping[str, Carrier], claims: Callable[[], Claims], clock: Clock
    ) -> None:
        self._database = database
        self._table = OutboxTable(database.dialect)
        self._carriers = carriers
        self._claims_of_store = claims
        self._clock = clock_of(database, clock)
        self._patience = _PATIENCE if database.has_one_writer else _SERVERS_PATIENCE
        self._key = f"outbox:{self._database.name}"
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self._starting = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._claims: Claims | None = None
        self._token: str | None = None
        self._is_there = False
        self._unknown: set[str] = set()
        self._sent: set[int] = set()  # and not yet removed

    def set_up(self) -> None:
        """Create the table. Harmless when called again."""
        self._database.alter(self._table.set_up, within=self._patience)

    def check(self) -> Sequence[str]:
        """Return what is missing, one sentence each. Creates nothing."""
        if self._database.exists() and self._database.read(self._table.is_there):
            return ()
        return (f'there is no table "{TABLE_NAME}" in {self._database}',)

    def ddl(self) -> Sequence[str]:
        """Return the statements that ``set_up`` would execute now."""
        return () if self._database.exists() and self._database.read(self._table.is_there) else self._table.ddl

    # --- writing ---

    def insert(self, cursor: Any, held: Mapping[str, Sequence[Outgoing]]) -> list[Waiting]:
        """Store messages by transport within a transaction on this database; return them for ``relay``."""
        if not self._is_there and not self._table.is_there(cursor):
            if self._database.has_one_writer:
                self._table.set_up(cursor)
            else:
                self.set_up()
        now = self._now()
        return [
            waiting
            for name, batch in held.items()
            for waiting in self._table.insert_rows(cursor, name, batch, now, now + _WRITERS_TIME)
        ]

    def send(self, transport: str, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Store messages in a transaction of its own, and relay them. The commit is the promise.

        Raises:
            TransportError: the database does not take them.
        """
        rows = self._database.write(lambda cursor: self.insert(cursor, {transport: batch}), within=self._patience)
        failpoints.reach("after_commit")
        self.relay(rows)
        return [Sent() for _ in batch]

    def send_in(self, transport: str, transaction: Transaction, batch: Sequence[Outgoing]) -> bool:
        """Store messages as part of a transaction, and relay them after its commit; False: it is another database."""
        if transaction.database != self._database.name:
            return False
        rows = self.insert(transaction.cursor(), {transport: batch})
        transaction.after_commit(lambda: self.relay(rows))
        return True

    def relay(self, rows: Sequence[Waiting]) -> None:
        """Send what was committed just now. Never raises; what cannot be sent now is sent by a sweep."""
        self._is_there = True
        unkeyed = [row for row in rows if row.outgoing.partition_key is None]
        if len(unkeyed) < len(rows):
            self._wake.set()
        for name, waiting in _by_transport(unkeyed).items():
            try:
                self._send(name, waiting)
            except Exception as error:  # noqa: BLE001 - logged; the rows stay for the sweep
                logger.warning('Messages for "%s" wait in the outbox: %s', name, error)
        self.start()

    # --- sweeping ---

    def start(self) -> None:
        """Begin to sweep, unless this process does. Returns at once."""
        with self._starting:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="bus-outbox", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop sweeping and let go of the database. Idempotent; from any thread."""
        with self._starting:
            self._stopping, thread = True, self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._starting:
            self._stopping, self._thread = False, None
        self._database.close()

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        self._database.forget()
        self._begin()

    def sweep(self) -> None:
        """Send what waits: rows whose writer did not send them, and, as their owner, rows with a key.

        Raises:
            TransportError: the database or the store does not answer.
        """
        if not self._is_there and not self._find_table():
            return
        self._warn_of_unknown()
        if self._sent:
            self._note(())
        now = self._now()
        if self._database.read(lambda cursor: self._table.is_any_due(cursor, self._carriers, now)):
            for name in self._carriers:
                self._sweep_transport(name)
        self._sweep_keyed()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.sweep()
            except TransportError as error:
                logger.warning("The outbox in %s cannot be swept now: %s", self._database, error)
            except Exception:
                logger.exception("Sweeping the outbox in %s failed", self._database)
            self._wake.wait(_BETWEEN_SWEEPS if self._token is None else _BETWEEN_LOOKS)
            self._wake.clear()
        self._give_up_ownership()

    def _find_table(self) -> bool:
        if self._database.exists():
            self._is_there = self._database.read(self._table.is_there)
        return self._is_there

    def _sweep_transport(self, name: str) -> None:
        while not self._stopping:
            now = self._now()
            claimed = self._database.write(
                lambda cursor, now=now: self._table.claim_due(cursor, name, _AT_ONCE, now, now + _WRITERS_TIME),  # type: ignore[misc]
                within=self._patience,
            )
            if not claimed or self._send(name, claimed) < len(claimed):
                return

    def _sweep_keyed(self) -> None:
        rows = self._first_of_each_key()
        while rows and not self._stopping and self._is_owner():
            for name, waiting in _by_transport(rows).items():
                self._send(name, waiting)
            rows = self._first_of_each_key()

    def _first_of_each_key(self) -> list[Waiting]:
        now = self._now()
        return self._database.read(lambda cursor: self._table.first_of_each_key(cursor, self._carriers, _AT_ONCE, now))

    def _send(self, name: str, waiting: Sequence[Waiting]) -> int:
        """Send messages of one transport, remove those that it has, let the others wait; return how many it has."""
        now = self._now()
        batch = [
            replace(each.outgoing, delay_ms=max(0, each.outgoing.delay_ms - (now - each.created_at)))
            for each in waiting
        ]
        results: Sequence[Sent | TransportError]
        try:
            results = self._carriers[name].deliver(batch)
        except TransportError as error:
            results = [error] * len(batch)
        failpoints.reach("relayed")
        failed = []
        for row, result in zip(waiting, results, strict=True):
            if isinstance(result, TransportError):
                failed.append(row)
                _report(row, result)
            else:
                self._sent.add(row.id)
        self._note(failed)
        return len(waiting) - len(failed)

    def _note(self, failed: Sequence[Waiting]) -> None:
        """Remove what was sent, by earlier calls too: where that did not succeed, it must not be sent again."""
        sent = list(self._sent)

        def note(cursor: Any) -> None:
            self._table.remove(cursor, sent)
            for row in failed:
                self._table.put_off(cursor, row, self._now() + min(_FIRST_WAIT << min(row.tries, 16), _LONGEST_WAIT))

        self._database.write(note, within=self._patience)
        self._sent.difference_update(sent)

    # --- who sends the rows with a key ---

    def _is_owner(self) -> bool:
        if self._claims is None:
            self._claims = self._claims_of_store()
        if self._token is not None and self._claims.renew(self._key, self._token):
            return True
        token = self._claims.token()
        self._token = token if self._claims.claim(self._key, token) is ClaimState.NEW else None
        return self._token is not None

    def _give_up_ownership(self) -> None:
        if self._claims is not None and self._token is not None:
            self._claims.release(self._key, self._token)
        self._token = None

    def _warn_of_unknown(self) -> None:
        """Say once which rows nobody here can send."""
        unknown = self._database.read(self._table.transports_in) - self._carriers.keys() - self._unknown
        for name in sorted(unknown):
            logger.warning(
                'Messages in the outbox of %s wait for the transport "%s", which this configuration does not have',
                self._database,
                name,
            )
        self._unknown |= unknown

    def _now(self) -> int:
        return int(self._clock.now() * 1000)


def _by_transport(rows: Iterable[Waiting]) -> Mapping[str, list[Waiting]]:
    sorted_out: dict[str, list[Waiting]] = defaultdict(list)
    for row in rows:
        sorted_out[row.transport].append(row)
    return sorted_out


def _report(row: Waiting, error: TransportError) -> None:
    logger.log(
        logging.ERROR if isinstance(error, SendRefused) else logging.WARNING,
        'Message %s waits in the outbox for "%s", which did not take it: %s',
        row.outgoing.message_id,
        row.transport,
        error,
        extra={"message_id": row.outgoing.message_id, "transport": row.transport, "attempt": row.outgoing.attempt},
    )
