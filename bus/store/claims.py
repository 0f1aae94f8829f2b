"""Claims on work that several processes may find: one has it, the others see that it is in progress or done."""

from __future__ import annotations

import logging
import secrets
from enum import Enum
from typing import Final

from bus.errors import TransportError
from bus.store.base import HasLiving, Store
from bus.store.renewal import Renewal

logger = logging.getLogger(__name__)

LEASE: Final = 15.0  # seconds until the claims of a dead process are free, in stores that cannot see its death

_DONE: Final = "done"
_CLAIMED: Final = "claimed "
_TRIES: Final = 3  # a key that changes hands this often within one call is in progress

# The claims that this process holds. A record of ours that is not among them is left over from a store that did not
# answer, and free.
_held_here: set[str] = set()


class ClaimState(Enum):
    """What a claim found: NEW, it is ours now; IN_PROGRESS elsewhere; DONE."""

    NEW = "new"
    IN_PROGRESS = "in progress"
    DONE = "done"


class Claims:
    """Claims keys in a store, each under a token of its own. Thread-safe; every method blocks on the store.

    A claim is kept alive until it is completed or released. Where the store knows the living, it is free as soon as
    its process is gone; elsewhere it is renewed from a thread, and free a lease after its process went.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._living = store.living if isinstance(store, HasLiving) else None
        self._renewal = Renewal(self.renew)
        self._left_over: dict[str, str] = {}

    @property
    def are_leases(self) -> bool:
        """Whether claims are times that run out, and not bound to the life of a process."""
        return self._living is None

    def token(self) -> str:
        """Return a new token for one claim. Raises TransportError where the store cannot keep it alive."""
        nonce = secrets.token_hex(8)
        return nonce if self._living is None else f"{self._living.owner()}.{nonce}"

    def claim(self, key: str, token: str, lease: float = LEASE) -> ClaimState:
        """Claim a key, unless somebody has claimed or completed it. Raises TransportError: it is not ours."""
        self._release_what_is_left_over()
        _held_here.add(token)
        try:
            state = self._claim(key, token, lease)
        except BaseException:
            self._left_over[key] = token
            _held_here.discard(token)
            raise
        if state is not ClaimState.NEW:
            _held_here.discard(token)
        elif self._living is None:
            self._renewal.add(key, token, lease)
        return state

    def is_claimed(self, key: str) -> bool:
        """Tell whether somebody holds a claim on a key, us included; one that is done is not claimed."""
        found = self.store.get(key)
        return found is not None and found != _DONE and not self._is_free(found)

    def renew(self, key: str, token: str, lease: float = LEASE) -> bool:
        """Keep a claim for another lease; False: somebody else has it. Writes nothing where no time runs."""
        if self._living is not None:
            return self.store.get(key) == _CLAIMED + token
        return self.store.swap(key, _CLAIMED + token, _CLAIMED + token, lease)

    def complete(self, key: str, token: str, ttl: float | None = None) -> bool:
        """Turn a claim into DONE for ``ttl`` seconds, or for ever; False: somebody else has it."""
        completed = self.store.swap(key, _CLAIMED + token, _DONE, ttl)
        self._let_go(token)
        return completed

    def release(self, key: str, token: str) -> bool:
        """Give a claim back; False: it was somebody else's. A store that does not answer is told later."""
        self._let_go(token)
        try:
            return self.store.delete_if(key, _CLAIMED + token)
        except TransportError as error:
            self._left_over[key] = token
            logger.warning('The claim on "%s" could not be given back and is given back later: %s', key, error)
            return False

    def _claim(self, key: str, token: str, lease: float) -> ClaimState:
        value = _CLAIMED + token
        ttl = lease if self._living is None else None
        for _ in range(_TRIES):
            if self.store.put_if_absent(key, value, ttl):
                return ClaimState.NEW
            found = self.store.get(key)
            if found == _DONE:
                return ClaimState.DONE
            if found is not None and self._is_free(found) and self.store.swap(key, found, value, ttl):
                return ClaimState.NEW
            if found is not None:
                return ClaimState.IN_PROGRESS
        return ClaimState.IN_PROGRESS

    def _is_free(self, found: str) -> bool:
        if self._living is None or not found.startswith(_CLAIMED):
            return False
        token = found.removeprefix(_CLAIMED)
        owner = token.partition(".")[0]
        if owner == self._living.owner():
            return token not in _held_here
        return not self._living.is_alive(owner)

    def _let_go(self, token: str) -> None:
        _held_here.discard(token)
        self._renewal.discard(token)

    def _release_what_is_left_over(self) -> None:
        while self._left_over:
            key, token = self._left_over.popitem()
            try:
                self.store.delete_if(key, _CLAIMED + token)
            except TransportError:
                self._left_over[key] = token
                raise
