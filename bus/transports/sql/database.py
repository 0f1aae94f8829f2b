"""What a driver, a store or an outbox needs of a database, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Dialect, Engine

T = TypeVar("T")


class Database(Protocol):
    """One database. Thread-safe: ``work`` is given a DBAPI cursor of a connection that nobody else uses meanwhile.

    It connects when it is first used, and again after ``close``.

    Attributes:
        name: which database it is; equal for every way to say it, and without a password.
        dialect: for which statements are compiled.
        engine: opens connections of their own, to look at tables.
        has_one_writer: while a transaction writes, nobody else can.
    """

    name: str
    dialect: Dialect
    engine: Engine
    has_one_writer: bool

    def read(self, work: Callable[[Any], T]) -> T:
        """Run ``work``, which changes nothing. Raises TransportError."""

    def write(self, work: Callable[[Any], T], *, within: float, lasts: bool = True, single: bool = False) -> T:
        """Run ``work`` in one transaction and commit it; it may run several times, and tries for ``within`` seconds.

        ``single``: it is one statement, around which a server needs no transaction.

        What is not to last (``lasts=False``) survives the death of every client, and may be undone by a failure of the
        machine or the server.

        Raises:
            SendUnknown: whether it took effect is not known.
            TransportError: anything else; nothing took effect.
        """

    def alter(self, work: Callable[[Any], T], *, within: float) -> T:
        """As ``write``, for what creates or changes tables; nobody else does so at the same time."""

    def inspect(self, look: Callable[[Engine], T]) -> T:
        """Run ``look``, which opens a connection of its own. Raises TransportError."""

    def exists(self) -> bool:
        """Tell whether there is a database to look at; looking does not create one."""

    def was_replaced(self) -> bool:
        """Tell whether another database has taken its place since it was opened; it is opened anew then."""

    def close(self) -> None:
        """Let go of the connections, and end every wait. Idempotent; from any thread."""

    def forget(self) -> None:
        """Leave the connections to the parent process. Called in a forked child, where no other thread runs."""
