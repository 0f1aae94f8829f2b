"""Runs each handler in a database transaction that its records and its sends are part of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from sqlalchemy import Connection, Pool, RootTransaction
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from bus.errors import BusError
from bus.forking import forget_in_children
from bus.handler_arguments import given_resources
from bus.middleware.base import CallHandler, HandlerCall
from bus.outbox.relay import Outbox
from bus.outbox.table import Waiting
from bus.transports.base import Outgoing
from bus.transports.sql.transactions import Transactions
from bus.unit import Sender

# Connections that a forked child found: closing them, as forgetting them does, would disturb the parent's.
_inherited: list[Pool] = []


class TransactionMiddleware:
    """Gives a handler a session or a connection, and commits once: its work, its completion record and its sends.

    A parameter annotated ``sqlalchemy.orm.Session`` or ``sqlalchemy.Connection`` is filled. The handler neither
    commits nor rolls back; a session's ``commit`` ends a savepoint. What it dispatches becomes rows of the same
    database: of a SQL transport's table that stands there, else of ``messenger_outbox``.

    The transaction begins with the first statement. As SQLite has one writer, other handlers wait from then on.

    Args:
        transactions: begins and ends them, in one database.
        outbox: the outbox in that database.
    """

    def __init__(self, transactions: Transactions, outbox: Outbox) -> None:
        self._transactions = transactions
        self._outbox = outbox
        forget_in_children(self)

    def __call__(self, call: HandlerCall, call_next: CallHandler) -> object:
        """Call the handler within a transaction: that of the call around this one, if it is on the same database."""
        unit = call.unit
        running = unit.transaction
        if not isinstance(running, SqlTransaction) or running.database != self._transactions.database:
            running = SqlTransaction(self._transactions, self._outbox)
            unit.enlist(running)
        resources = Resources(running)
        token = given_resources.set(resources.by_type)
        try:
            result = call_next(call)
        except BaseException:
            resources.drop()
            raise
        finally:
            given_resources.reset(token)
        resources.finish()
        return result

    def close(self) -> None:
        """Let go of the connections that are kept. Idempotent; the next call opens new ones."""
        self._transactions.engine.dispose()

    def forget(self) -> None:
        """Leave the connections to the parent process. Called in a forked child."""
        _inherited.append(self._transactions.engine.pool)
        self._transactions.engine.dispose(close=False)


class SqlTransaction:
    """A transaction on one connection. It begins with its first statement, whoever executes that."""

    def __init__(self, transactions: Transactions, outbox: Outbox) -> None:
        self.database = transactions.database
        self.sessions: list[Session] = []
        self._transactions = transactions
        self._outbox = outbox
        self._connection: Connection | None = None
        self._root: RootTransaction | None = None
        self._is_over = False
        self._waiting: Sequence[Waiting] = ()
        self._notes: list[Callable[[], None]] = []

    @property
    def connection(self) -> Connection:
        """The connection, opened when it is first asked for."""
        if self._connection is None:
            self._connection = self._transactions.connect()
            self._root = self._connection.begin()
        return self._connection

    def cursor(self) -> Any:
        """Return a DBAPI cursor inside the transaction, which begins now if it has not."""
        for session in self.sessions:
            session.flush()
        connection = _driver_connection(self.connection)
        self._transactions.begin(connection)
        return connection.cursor()

    def take_over(self, held: Mapping[Sender, Sequence[Outgoing]]) -> None:
        """Store what is to be sent: in the transport's own table where that is in this database, else in the outbox."""
        others = {sender.name: batch for sender, batch in held.items() if not sender.send_in(self, batch)}
        if others:
            self._waiting = self._outbox.insert(self.cursor(), others)

    def after_commit(self, note: Callable[[], None]) -> None:
        """Have something done when it is committed, that need not be done."""
        self._notes.append(note)

    def commit(self) -> None:
        """Commit.

        Raises:
            TransportError: the database did not do it, or perhaps did.
            BusError: the handler has ended the transaction itself.
        """
        root = self._root
        is_ended = root is not None and (
            self.connection.closed or not root.is_active or self.connection.get_transaction() is not root
        )
        if self._is_over or is_ended:
            raise BusError(
                f'The transaction of a handler on "{self.database}" was ended by the handler itself; '
                "it is committed when the handler returns, and rolled back when it raises."
            )
        if self._connection is not None:
            self._transactions.commit(_driver_connection(self._connection))
        self._close()

    def roll_back(self) -> None:
        """Undo everything. Harmless after a commit."""
        # Where the handler has closed the connection, its pool has rolled it back.
        if not self._is_over and self._connection is not None and not self._connection.closed:
            try:
                self._transactions.roll_back(_driver_connection(self._connection))
            except Exception:  # noqa: BLE001 - of whichever client library; the server undoes it with the connection
                self._connection.invalidate()
        self._close()

    def relay(self) -> None:
        """Send what waits in the outbox since the commit, and tell those who wait for messages."""
        for note in self._notes:
            note()
        if self._waiting:
            self._outbox.relay(self._waiting)

    def _close(self) -> None:
        self._is_over = True
        if self._connection is not None:
            self._connection.close()


class _HandlersSession(Session):
    """The session of a handler, which its middleware closes: what is not committed then would be rolled back.

    ``is_over``: the middleware says so.
    """

    is_over = False

    def close(self) -> None:
        """Close it, unless the handler does, also by ``with session:``.

        Raises:
            BusError: the handler does, and would lose its work.
        """
        if not self.is_over:
            raise BusError(
                'A handler in a transaction does not close its session, also not by "with session:": that would roll '
                "back what it did. It is closed when the handler returns."
            )
        super().close()


class Resources:
    """What the parameters of one handler are filled with: made when a parameter asks for it."""

    def __init__(self, transaction: SqlTransaction) -> None:
        self._transaction = transaction
        self._session: _HandlersSession | None = None
        self.by_type: Mapping[type, Callable[[], object]] = {Session: self._open, Connection: self._connect}

    def finish(self) -> None:
        """Write what the session still holds, and end its savepoint."""
        if self._session is not None:
            self._forget_session()
            with self._session as session:
                session.commit()

    def drop(self) -> None:
        """Let go of the session; its work is rolled back with the transaction."""
        if self._session is not None:
            self._forget_session()
            with suppress(SQLAlchemyError):
                self._session.close()

    def _forget_session(self) -> None:
        session = cast("_HandlersSession", self._session)
        session.is_over = True
        self._transaction.sessions.remove(session)

    def _open(self) -> Session:
        if self._session is None:
            # A savepoint of its own, so that commit() and rollback() in a handler do not end the transaction.
            self._session = _HandlersSession(self._transaction.connection, join_transaction_mode="create_savepoint")
            self._transaction.sessions.append(self._session)
        return self._session

    def _connect(self) -> Connection:
        return self._transaction.connection


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection
