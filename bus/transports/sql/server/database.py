"""A database on a server: connections are kept for the next call, and calls tried again while there is time."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from bus.errors import AccessDeniedError, ConnectionLostError, SendRefused, SendUnknown, TransportError
from bus.transports.sql.server.client import Client, Fault
from bus.transports.sql.server.watchdog import Watchdog

logger = logging.getLogger(__name__)

T = TypeVar("T")

_READING: Final = 5.0  # seconds
_HANGS: Final = 5.0  # seconds without an answer after which a server is taken for gone
_PAUSES: Final = (0.02, 0.5)  # seconds before the second try, and the longest
_KEPT: Final = 8  # idle connections of a kind

# Connections that a forked child found: closing them would end the parent's.
_inherited: list[Any] = []


class ServerDatabase:
    """One database on a server. Thread-safe: each call has a connection of its own while it runs."""

    has_one_writer = False

    def __init__(self, client: Client) -> None:
        self._client = client
        self.name = client.name
        self.dialect = client.dialect
        self.engine: Engine = create_engine(client.url, creator=client.connect, poolclass=NullPool)
        self._errors: tuple[type[Exception], ...] = (*client.errors, DBAPIError, OSError)
        self._watchdog = Watchdog(client.cut)
        self._begin()

    def _begin(self) -> None:
        self._idle: dict[bool, list[Any]] = {True: [], False: []}
        self._closed = threading.Event()
        self._generation = 0

    def read(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` without a transaction. Raises TransportError."""
        return self._persist(lambda connection: work(connection.cursor()), _READING, lasts=False, repeatable=True)

    def write(self, work: Callable[[Any], T], *, within: float, lasts: bool = True, single: bool = False) -> T:
        """Run ``work`` in one transaction and commit it; it may run several times.

        Raises:
            SendUnknown: the connection broke, so that it is not known whether it took effect.
            TransportError: anything else; nothing took effect.
        """

        def write(connection: Any) -> T:
            cursor = connection.cursor()
            if single:
                return work(cursor)
            self._client.begin(cursor)
            result = work(cursor)
            connection.commit()
            return result

        return self._persist(write, within, lasts=lasts)

    def alter(self, work: Callable[[Any], T], *, within: float) -> T:
        """Run ``work``, which creates or changes tables; nobody else does so at the same time."""

        def alter(cursor: Any) -> T:
            self._client.lock_tables(cursor)
            try:
                return work(cursor)
            finally:
                self._client.unlock_tables(cursor)

        return self.write(alter, within=within)

    def inspect(self, look: Callable[[Engine], T]) -> T:
        """Run ``look``, which opens a connection of its own. Raises TransportError."""
        return self._persist(lambda _: look(self.engine), _READING, lasts=True, repeatable=True)

    def exists(self) -> bool:
        """Tell that there is a database to look at: a server makes none by being looked at."""
        return True

    def was_replaced(self) -> bool:
        """Tell that no other database has taken its place; a table that is gone shows as an error."""
        return False

    def close(self) -> None:
        """Let go of the idle connections, and end every wait. Idempotent; from any thread."""
        self._closed.set()
        self._generation += 1
        for idle in self._idle.values():
            while idle:
                self._discard(idle.pop())
        self._closed = threading.Event()

    def forget(self) -> None:
        """Leave the connections to the parent process. Called in a forked child, where no other thread runs."""
        for idle in self._idle.values():
            _inherited.extend(idle)
        self._watchdog.forget()
        self._begin()

    # --- one call ---

    def _persist(self, attempt: Callable[[Any], T], within: float, *, lasts: bool, repeatable: bool = False) -> T:
        started, pause, closed = time.monotonic(), _PAUSES[0], self._closed
        until = started + within
        while True:
            try:
                return self._attempt(attempt, max(until, started + _HANGS), lasts=lasts, repeatable=repeatable)
            except _TransientError as again:
                if closed.is_set():
                    raise ConnectionLostError(f"{self} was closed while it was waited for") from again.error
                if time.monotonic() + pause > until:
                    raise ConnectionLostError(f"{self} does not answer as it should: {again.error}") from again.error
            closed.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
            pause = min(pause * 2, _PAUSES[1])

    def _attempt(self, attempt: Callable[[Any], T], until: float, *, lasts: bool, repeatable: bool) -> T:
        lasts = lasts or not self._client.relaxes
        generation, connection = self._generation, self._connection(lasts)
        try:
            with self._watchdog.watching(connection, until):
                result = attempt(connection)
        except self._errors as error:
            self._let_go_after_error(connection, lasts)
            raise self._translated(error, repeatable=repeatable) from error
        except BaseException:
            self._let_go_after_error(connection, lasts)
            raise
        if generation == self._generation and len(self._idle[lasts]) < _KEPT:
            self._idle[lasts].append(connection)
        else:
            self._discard(connection)
        return result

    def _connection(self, lasts: bool) -> Any:
        idle = self._idle[lasts]
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                break
            if self._client.is_usable(connection):
                return connection
            self._discard(connection)
        try:
            return self._client.connect(lasts=lasts)
        except self._client.errors as error:
            raise self._translated(error, connecting=True) from error

    def _let_go_after_error(self, connection: Any, lasts: bool) -> None:
        if not self._client.is_broken(connection):
            try:
                connection.rollback()
                self._idle[lasts].append(connection)
                return
            except self._client.errors:
                pass
        self._discard(connection)

    def _discard(self, connection: Any) -> None:
        try:
            connection.close()
        except self._client.errors:
            pass

    def _translated(self, error: Exception, *, connecting: bool = False, repeatable: bool = False) -> Exception:
        """Return our error for one of the client library's, or the wish to try again."""
        original = error.orig if isinstance(error, DBAPIError) else error
        assert isinstance(original, Exception)
        fault = self._client.fault_of(original, connecting=connecting)
        if fault is Fault.UNDONE or (fault is Fault.UNKNOWN and (repeatable or connecting)):
            return _TransientError(original)
        if fault is Fault.UNKNOWN:
            return SendUnknown(f"{self}: it is unknown whether a change took effect: {original}")
        return {Fault.DENIED: AccessDeniedError, Fault.REFUSED: SendRefused}[fault](f"{self}: {original}")

    def __str__(self) -> str:
        return f'database "{self.name}"'


class _TransientError(TransportError):
    """Nothing took effect; there may be time for another try."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
