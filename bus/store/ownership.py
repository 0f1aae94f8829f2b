"""Who reads which partition: each is owned by one live worker, through a record in a store."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from bus.store.base import Store
from bus.store.claims import Claims, ClaimState
from bus.transports.base import SetsUp, SetsUpBySql

logger = logging.getLogger(__name__)


class Ownership:
    """The partitions of one queue that this process owns, and its place among the workers that share them.

    As many places as partitions: a worker beyond them has no share and waits for a place. One thread at a time calls
    it; ``owned`` may be read by any. Every method blocks on the store and raises TransportError.

    Attributes:
        owned: the partitions that nobody else may read.
    """

    def __init__(self, store: Store, queue: str) -> None:
        self._store = store
        self._claims = Claims(store)
        self._queue = queue
        self._place: tuple[int, str] | None = None
        self._tokens: dict[int, str] = {}
        self.owned: frozenset[int] = frozenset()

    def balance(self, partitions: Collection[int]) -> Collection[int]:
        """Own what is free, up to this worker's share; return what it owns beyond that, to be given back."""
        self._drop_what_was_lost()
        self._take_a_place(len(partitions))
        share = self._share(len(partitions))
        for partition in sorted(partitions):
            if len(self.owned) >= share:
                break
            if partition not in self.owned:
                self._own(partition)
        return sorted(self.owned)[share:]

    def give_back(self, partition: int) -> None:
        """Let somebody else own a partition. Nothing of it may be in hand any more."""
        token = self._tokens.pop(partition)
        self.owned = frozenset(self._tokens)
        self._claims.release(self._partition_key(partition), token)

    def set_up(self) -> None:
        """Create what the store needs on its server. Harmless when called again."""
        if isinstance(self._store, SetsUp):
            self._store.set_up()

    def check(self) -> Sequence[str]:
        """Return what the store lacks on its server, one sentence each. Creates nothing."""
        return self._store.check() if isinstance(self._store, SetsUp) else ()

    def ddl(self) -> Sequence[str]:
        """Return the SQL statements that ``set_up`` would execute now."""
        return self._store.ddl() if isinstance(self._store, SetsUpBySql) else ()

    def close(self) -> None:
        """Let go of everything at once; it is free for others. Idempotent; from any thread."""
        tokens, place = self._tokens, self._place
        self.forget()
        if self._claims.are_leases:
            # Closing the store ends no lease, and they would be renewed for ever.
            for partition, token in tokens.items():
                self._claims.release(self._partition_key(partition), token)
            if place is not None:
                self._claims.release(self._place_key(place[0]), place[1])
        self._store.close()

    def forget(self) -> None:
        """Own nothing, without telling the store: as in a forked child."""
        self._tokens = {}
        self.owned = frozenset()
        self._place = None

    def _own(self, partition: int) -> None:
        token = self._claims.token()
        if self._claims.claim(self._partition_key(partition), token) is ClaimState.NEW:
            self._tokens[partition] = token
            self.owned = frozenset(self._tokens)

    def _drop_what_was_lost(self) -> None:
        for partition, token in list(self._tokens.items()):
            if not self._claims.renew(self._partition_key(partition), token):
                logger.warning('Partition %s of queue "%s" is owned by somebody else now', partition, self._queue)
                self.give_back(partition)
        if self._place is not None and not self._claims.renew(self._place_key(self._place[0]), self._place[1]):
            self._place = None

    def _take_a_place(self, places: int) -> None:
        if self._place is not None:
            return
        for number in range(places):
            token = self._claims.token()
            if self._claims.claim(self._place_key(number), token) is ClaimState.NEW:
                self._place = number, token
                return

    def _share(self, partitions: int) -> int:
        if self._place is None:
            return 0
        own, _ = self._place
        others = [
            number for number in range(partitions) if number != own and self._claims.is_claimed(self._place_key(number))
        ]
        share, left = divmod(partitions, len(others) + 1)
        # The first ones have one more, so that the shares make up the whole.
        return share + (sum(number < own for number in others) < left)

    def _partition_key(self, partition: int) -> str:
        return f"partition:{self._queue}:{partition}"

    def _place_key(self, number: int) -> str:
        return f"partition-reader:{self._queue}:{number}"
