"""How often messages of partitions were delivered without being settled.

They cannot be put behind with their count, for that would change their order. So it stands in the shared store, from
the first time that such a message is suspected until it is settled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from bus.errors import TransportError
from bus.transports.amqp.claims import AmqpClaim
from bus.transports.amqp.properties import identity_of

if TYPE_CHECKING:
    from bus.store.base import Store
    from bus.transports.amqp.reader import QueueReader, Received

logger = logging.getLogger(__name__)

_KEPT: Final = 7 * 24 * 3600.0  # seconds; a message that is not delivered again for so long is fresh
_SUSPECTED: Final = 2  # deliveries, where there is no store to ask


class CrashCounts:
    """The counts of one transport. Blocks on the store; ``store`` None: every redelivered message counts 2."""

    def __init__(self, store: Callable[[], Store] | None) -> None:
        self._store = store

    def count(self, reader: QueueReader, received: Received) -> int:
        """Count this delivery, and return how many there were without a settlement, this one included.

        Raises:
            TransportError: the store does not answer.
        """
        if not received[0].redelivered:
            return 1
        if self._store is None:
            return _SUSPECTED
        key = _key(reader, received)
        known = self._store().get(key)
        deliveries = (int(known) if known is not None and known.isdecimal() else 1) + 1
        self._put(key, known, deliveries)
        return deliveries

    def give_back(self, claims: Iterable[AmqpClaim]) -> None:
        """Take note of messages that come back as redelivered ones though no attempt was begun."""
        for claim in claims:
            if self._store is not None:
                try:
                    key = _key(claim.reader, claim.received)
                    self._put(key, self._store().get(key), claim.deliveries - 1)
                except TransportError as error:
                    logger.warning("Messages that are given back come back counted as delivered: %s", error)
                    return

    def forget(self, claims: Iterable[AmqpClaim]) -> None:
        """Forget messages that are settled."""
        for claim in claims:
            if claim.partition is not None and claim.received[0].redelivered and self._store is not None:
                try:
                    store, key = self._store(), _key(claim.reader, claim.received)
                    known = store.get(key)
                    if known is not None:
                        store.delete_if(key, known)
                except TransportError as error:
                    logger.warning("A count of deliveries could not be removed; it ends by itself: %s", error)

    def _put(self, key: str, known: str | None, deliveries: int) -> None:
        assert self._store is not None
        if known is None:
            self._store().put_if_absent(key, str(deliveries), _KEPT)
        else:
            self._store().swap(key, known, str(deliveries), _KEPT)


def _key(reader: QueueReader, received: Received) -> str:
    return f"deliveries:{reader.queue.name}:{identity_of(received[1], received[2])}"
