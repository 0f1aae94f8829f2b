"""What a store is: four atomic steps on texts by key."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from bus.unit import Transaction


class Store(Protocol):
    """Keeps texts by key, for all processes that share it.

    Thread-safe. Every method is one atomic step that survives this process when it returns, and blocks until the store
    has answered; within a greenlet or on an event loop it is called through ``aio.blocking``. ``ttl`` is in seconds,
    counted by the store's own clock; None keeps the value until it is deleted. A value whose time is over is not there.

    Every method raises TransportError where the store does not answer. Whether the step was made is unknown then:
    repeating ``put_if_absent`` may find one's own value, which ``get`` shows.
    """

    def put_if_absent(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store a value unless the key has one; False: it has."""

    def swap(self, key: str, expected: str, value: str, ttl: float | None = None) -> bool:
        """Replace the value ``expected``, and its time, by another; False: the key has another value, or none."""

    def delete_if(self, key: str, expected: str) -> bool:
        """Delete the value ``expected``; False: the key has another value, or none."""

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None."""

    def close(self) -> None:
        """Let go of what the store holds. Idempotent; from any thread. The next use opens it again."""


class KnowsTheLiving(Protocol):
    """What can tell whether the process behind a token lives, so that leases of it need no time."""

    def owner(self) -> str:
        """Return the token of this process: alive until the process ends, however it ends, or ``close``.

        Raises TransportError where it cannot be kept alive.
        """

    def is_alive(self, owner: str) -> bool:
        """Tell whether the process that got this token lives."""


@runtime_checkable
class HasLiving(Protocol):
    """A store that may know the living: ``living`` tells, None: leases in it are times."""

    @property
    def living(self) -> KnowsTheLiving | None:
        """What tells whether the process behind a token lives."""


@runtime_checkable
class JoinsTransactions(Protocol):
    """A store in a database: its steps are part of the handler's transaction where that is on the same one."""

    def joins(self, transaction: Transaction) -> bool:
        """Tell whether steps made now, in the same context, are part of this transaction."""
