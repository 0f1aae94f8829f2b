"""The driver on PostgreSQL: idle workers are woken by notifications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bus.clock import Clock
from bus.errors import TransportError
from bus.transports.base import Delivery, Outgoing, Sent
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.server.database import ServerDatabase
from bus.transports.sql.server.driver import ServerDriver
from bus.transports.sql.server.notifications import Listener, Notifier
from bus.transports.sql.server.postgresql import PostgresClient
from bus.transports.sql.server.postgresql_table import PostgresTable
from bus.unit import Transaction

if TYPE_CHECKING:
    from bus.store.ownership import Ownership


class PostgresDriver(ServerDriver[PostgresTable]):
    """Moves messages in and out of one queue of a table in PostgreSQL."""

    single_statements = True

    def __init__(
        self, client: PostgresClient, options: SqlOptions, clock: Clock, ownership: Ownership | None = None
    ) -> None:
        """Without an ``ownership`` nothing is read from partitions."""
        database = ServerDatabase(client)
        self._client = client
        self._options = options
        self._notifier = Notifier(database, options.table_name)
        self._wakes: list[Callable[[], None]] = []
        self._listener: Listener | None = None
        super().__init__(database, PostgresTable, options, clock, ownership)

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Store all messages in one transaction, or none of them, and wake workers that wait for them."""
        results = super().send(batch)
        if any(isinstance(each, Sent) for each in results):
            self._tell(batch)
        return results

    def send_in(self, transaction: Transaction, batch: Sequence[Outgoing]) -> bool:
        """Store messages as part of a transaction on the same database; False: it is another one."""
        if not super().send_in(transaction, batch):
            return False
        transaction.after_commit(lambda: self._tell(batch))
        return True

    def _tell(self, batch: Sequence[Outgoing]) -> None:
        # Not part of the transaction: those that notify commit one after the other, in the whole server.
        queues = {each.origin or self._options.queue_name for each in batch if each.delay_ms <= 0}
        if queues:
            self._notifier.tell(queues)

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` from a thread of its own when messages were sent, from wherever that was."""
        self._wakes.append(wake)
        self._listen()

    def get(self, limit: int) -> Sequence[Delivery]:
        """Claim what is due, by priority, then time. Raises as ``SqlDriver.get``."""
        self._listen()
        return super().get(limit)

    def _listen(self) -> None:
        if self._wakes and self._listener is None:
            self._listener = Listener(self._client, self._options.table_name, self._options.queue_name, self._wake)

    def _wake(self) -> None:
        for wake in self._wakes:
            wake()

    def close(self) -> None:
        """Give back what was not begun, let go of every claim and of the connections."""
        self._notifier.flush()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()
        super().close()

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        super().forget()
        self._notifier.begin()
        self._listener = None
        self._wakes = []
