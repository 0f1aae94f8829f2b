"""Which partitions of a queue this worker reads: those that it owns."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Final, Protocol

from bus.errors import TransportError

if TYPE_CHECKING:
    from bus.store.ownership import Ownership

logger = logging.getLogger(__name__)

_BETWEEN_ROUNDS: Final = 1.0  # seconds
_CLOSING: Final = 2.0  # seconds that a round gets to end


def partition_of_key(key: str, partitions: int) -> int:
    """Return the partition of a key, the one that PHP's crc32 leads to."""
    return zlib.crc32(key.encode(errors="surrogatepass")) % partitions


class HoldsMessages(Protocol):
    """What holds messages of partitions: the driver."""

    def partitions_in_use(self) -> Collection[int]:
        """Return the partitions in which messages stand."""

    def let_go(self, partitions: Collection[int]) -> Collection[int]:
        """Give back what is not begun; return the partitions of which nothing is in hand any more."""

    def left_by_others(self, partition: int) -> bool:
        """Free what the dead hold of a partition; tell whether somebody else still holds some of it."""


class OwnedPartitions:
    """The partitions of one queue, as one worker sees them.

    A thread keeps the ownership balanced from the first ``start`` until ``close``, so that a busy worker gives its
    surplus to a new one, and takes over what a dead one left.
    """

    def __init__(self, count: int, ownership: Ownership, holder: HoldsMessages) -> None:
        self._count = count
        self._ownership = ownership
        self._holder = holder
        self._begin()

    def forget(self) -> None:
        """Own nothing, in a forked child: what the parent owns stays the parent's."""
        self._ownership.forget()
        self._begin()

    def _begin(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._open: frozenset[int] = frozenset()
        self._paused: frozenset[int] = frozenset()

    def start(self) -> None:
        """Balance now, and from now on, where there are partitions. For the thread that gets messages.

        Raises:
            TransportError: the store or the queue does not answer.
        """
        if self._thread is None and self._has_partitions():
            self._round()
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name="bus-partitions", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Own nothing any more; everything is free for others. Idempotent. What is in hand has been given back."""
        self._stop.set()
        self._open = frozenset()
        self._ownership.close()
        if self._thread is not None:
            self._thread.join(_CLOSING)
        self._ownership.close()  # a round that was under way may have opened it again
        self._begin()

    def pause(self, partitions: Collection[int]) -> None:
        """Read nothing of these partitions, and of the others again."""
        self._paused = frozenset(partitions)

    @property
    def open(self) -> frozenset[int]:
        """The partitions that may be read now."""
        return self._open - self._paused

    def _has_partitions(self) -> bool:
        return self._count > 0

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(_BETWEEN_ROUNDS):
            try:
                self._round()
            except TransportError as error:
                if not stop.is_set():
                    logger.warning("The partitions could not be balanced; it is tried again: %s", error)
            except Exception:
                logger.exception("The partitions could not be balanced; it is tried again")

    def _round(self) -> None:
        """Give back what others should have, and open what is ours as soon as nobody else holds messages of it."""
        partitions = {*range(self._count), *self._holder.partitions_in_use()}
        if not partitions:
            return
        surplus = set(self._ownership.balance(partitions))
        owned = self._ownership.owned
        leaving = surplus | (self._open - owned)
        self._open -= leaving
        if leaving:
            self._let_go(leaving)
        for partition in sorted(owned - leaving - self._open):
            # A dead owner's messages go before those that came later.
            if not self._holder.left_by_others(partition):
                self._open |= {partition}

    def _let_go(self, leaving: Collection[int]) -> None:
        for partition in self._holder.let_go(leaving):
            if partition in self._ownership.owned:
                self._ownership.give_back(partition)
                logger.info("Partition %s was given to another worker", partition)
