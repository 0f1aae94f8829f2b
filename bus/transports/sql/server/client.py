"""What one kind of server, with its client library, tells the rest of this package."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from sqlalchemy import Dialect

from bus.errors import TransportError


class Fault(Enum):
    """What an error of the client library means.

    UNDONE: nothing took effect, and trying again may help. UNKNOWN: the connection broke; what was under way may have
    taken effect. DENIED: a person has to change something. REFUSED: the server will never take this.
    """

    UNDONE = "undone"
    UNKNOWN = "unknown"
    DENIED = "denied"
    REFUSED = "refused"


class Client(Protocol):
    """Opens connections in autocommit mode and understands their errors. Thread-safe; holds none of them.

    Attributes:
        name: which database it is; equal for every way to say it, and without a password.
        dialect: for which statements are compiled.
        url: what SQLAlchemy calls the kind of database and its library.
        relaxes: there are connections whose commits do not wait for the disk.
    """

    name: str
    dialect: Dialect
    url: str
    relaxes: bool

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The base of what the library raises."""

    def connect(self, *, lasts: bool = True) -> Any:
        """Return a new connection, ready for use; without ``lasts`` its commits do not wait for the disk."""

    def connect_for_handlers(self) -> Any:
        """Return a new connection with the server's own settings, on which a statement begins a transaction."""

    def has_failed(self, connection: Any) -> bool:
        """Tell whether a statement has failed and taken its transaction along, so that a commit would undo it."""

    def lost(self, error: Exception) -> TransportError:
        """Return our error for one at connecting or committing."""

    def is_usable(self, connection: Any) -> bool:
        """Tell whether an idle connection is still good, without asking the server."""

    def is_broken(self, connection: Any) -> bool:
        """Tell whether a connection cannot be used again after an error."""

    def cut(self, connection: Any) -> None:
        """End a connection on which another thread waits, so that the wait ends."""

    def fault_of(self, error: Exception, *, connecting: bool = False) -> Fault:
        """Say what an error means."""

    def begin(self, cursor: Any) -> None:
        """Begin a transaction."""

    def lock_tables(self, cursor: Any) -> None:
        """Keep others from creating or changing tables of this package until ``unlock_tables``."""

    def unlock_tables(self, cursor: Any) -> None:
        """Let others do so again."""
