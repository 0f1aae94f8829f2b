"""A transaction that belongs to the caller of a dispatch: messages become part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from bus.errors import BusError
from bus.transports.base import Outgoing
from bus.transports.sql.connection import database_name
from bus.unit import Sender

_PORTS = {"mysql": 3306, "postgresql": 5432}


class CallersTransaction:
    """The transaction of a SQLAlchemy session or connection, which its owner commits or rolls back."""

    def __init__(self, owner: object) -> None:
        """Raises BusError where ``owner`` is neither a Session nor a Connection."""
        if not isinstance(owner, Session | Connection):
            raise BusError(
                f'A TransactionStamp has a "{type(owner).__qualname__}"; it needs a sqlalchemy.orm.Session or a '
                "sqlalchemy.Connection"
            )
        self._owner = owner
        self._connection = owner.connection() if isinstance(owner, Session) else owner
        self.database = _name_of(self._connection)

    def cursor(self) -> Any:
        """Return a DBAPI cursor inside the transaction."""
        if isinstance(self._owner, Session):
            self._owner.flush()
        return self._connection.connection.cursor()

    def after_commit(self, note: Callable[[], None]) -> None:
        """Have something done when a session is committed, unless something of it was rolled back before.

        Nothing tells of a connection's commit; what would have been done is found by those who look now and then.
        """
        if not isinstance(self._owner, Session):
            return
        waiting = [note]

        def committed(_: Session) -> None:
            while waiting:
                waiting.pop()()

        event.listen(self._owner, "after_commit", committed, once=True)
        event.listen(self._owner, "after_soft_rollback", lambda *_: waiting.clear(), once=True)

    def take_over(self, held: Mapping[Sender, Sequence[Outgoing]]) -> None:
        """Store what is to be sent as part of the transaction."""
        for sender, batch in held.items():
            sender.send_in(self, batch)

    def commit(self) -> None:
        """Leave it to the owner."""

    def roll_back(self) -> None:
        """Leave it to the owner."""

    def relay(self) -> None:
        """Leave it to what the owner's commit sets off."""


def _name_of(connection: Connection) -> str:
    """Return what this package calls the database of a connection."""
    url = connection.engine.url
    kind = connection.dialect.name.replace("mariadb", "mysql")
    if kind == "sqlite":
        return database_name(Path(url.database or ""))
    return f"{kind}://{url.host or 'localhost'}:{url.port or _PORTS.get(kind)}/{url.database}"
