"""Runs each handler of a message once, however often the message is delivered."""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from typing import Final, Literal

from bus import aio, failpoints
from bus.envelope import Envelope
from bus.errors import ConfigurationError, InProgressElsewhereError, MissingMessageIdError, TransportError
from bus.log_context import log_context, message_id_of
from bus.middleware.base import CallHandler, HandlerCall
from bus.stamps import ClaimStamp, MessageIdStamp, RandomIdStamp, ReceivedStamp
from bus.store.base import JoinsTransactions, Store
from bus.store.claims import Claims, ClaimState
from bus.unit import Unit

logger = logging.getLogger(__name__)

MissingId = Literal["error", "hash", "handle"]

_LONGEST_KEY: Final = 250  # characters, which every store can index


class IdempotencyMiddleware:
    """Claims a message for one handler before it runs, and notes that it is done when it has succeeded.

    A handler that is done is skipped. One that runs elsewhere counts as in progress: the message is postponed. A
    handler that fails gives its claim back. The note is part of the handler's transaction where the store is in the
    same database; then the effect happens exactly once. Otherwise it follows the effect, and a process that is killed
    between the two leads to one repeated effect.

    Args:
        store: where claims and notes stand; all workers of the messages share it.
        ttl: how long is remembered that a handler is done; None for ever. Longer than the last redelivery may take.
        missing_id: what to do with a message without a stable id: refuse it ("error"), use a hash of its type and
            body ("hash"; two equal messages are then one), or handle it without this protection ("handle").
        prefix: what the keys begin with.
    """

    def __init__(
        self,
        store: Store,
        ttl: timedelta | None = None,
        *,
        missing_id: MissingId = "error",
        prefix: str = "idempotency:",
    ) -> None:
        if ttl is not None and ttl <= timedelta():
            raise ConfigurationError(f'the "ttl" of idempotency must be longer than {ttl}')
        if missing_id not in ("error", "hash", "handle"):
            raise ConfigurationError(f'"missing_id" must be "error", "hash" or "handle", not "{missing_id}"')
        self._claims = Claims(store)
        self._store = store
        self._ttl = None if ttl is None else ttl.total_seconds()
        self._missing_id = missing_id
        self._prefix = prefix

    def __call__(self, call: HandlerCall, call_next: CallHandler) -> object:
        """Call the handler unless it is done or running elsewhere.

        Raises:
            InProgressElsewhereError: somebody else has claimed it.
            MissingMessageIdError: nothing tells this message from another.
            TransportError: the store does not answer; the handler has not run.
        """
        message_id = self._id_of(call)
        if message_id is None:
            return call_next(call)
        key = self._key(message_id, call.handler.name)
        state, token = aio.blocking(self._claim, key)
        if state is ClaimState.DONE:
            logger.info(
                'Handler "%s" is skipped, for it is done with message %s',
                call.handler.name,
                message_id_of(call.envelope),
                extra=log_context(call.envelope, _receiver_of(call.envelope)),
            )
            return None
        if state is ClaimState.IN_PROGRESS:
            raise InProgressElsewhereError(
                f'Handler "{call.handler.name}" is handling message "{message_id}" in another call.'
            )
        unit = call.unit
        unit.before_commit(lambda: aio.blocking(self._note, key, token, unit))
        unit.after_failure(lambda: aio.blocking(self._release, key, token))
        failpoints.reach("claimed")
        return call_next(call)

    def _claim(self, key: str) -> tuple[ClaimState, str]:
        token = self._claims.token()
        return self._claims.claim(key, token), token

    def _release(self, key: str, token: str) -> None:
        self._claims.release(key, token)

    def _note(self, key: str, token: str, unit: Unit) -> None:
        """Note that the handler is done, or see to it that this is done after the commit."""
        transaction = unit.transaction
        if transaction is None or (isinstance(self._store, JoinsTransactions) and self._store.joins(transaction)):
            if not self._claims.complete(key, token, self._ttl):
                raise _lost(key)
            return
        # Noted before the commit, it would stay where the commit fails: the handler would never run.
        if not self._claims.renew(key, token):
            raise _lost(key)
        unit.after_commit(lambda: self._note_committed(key, token))

    def _note_committed(self, key: str, token: str) -> None:
        try:
            noted = self._claims.complete(key, token, self._ttl)
        except TransportError as error:
            logger.warning('It could not be noted that "%s" is done; a second copy would be handled: %s', key, error)
        else:
            if not noted:
                logger.warning('The claim on "%s" was lost while its transaction was committed', key)

    def _id_of(self, call: HandlerCall) -> str | None:
        """Return what tells the message from every other, or None where it is handled without."""
        last: dict[type, object] = {type(stamp): stamp for stamp in call.envelope.stamps}
        stamp = last.get(MessageIdStamp)
        if isinstance(stamp, MessageIdStamp) and RandomIdStamp not in last:
            return stamp.id
        if self._missing_id == "handle":
            return None
        if self._missing_id == "hash":
            return _hash_of(call.envelope)
        raise MissingMessageIdError(
            f'The message for handler "{call.handler.name}" has no id that its next delivery would have too; '
            "let its producer give it one, or choose missing_id: hash (equal messages are one) or "
            "missing_id: handle (no protection)."
        )

    def _key(self, message_id: str, handler_name: str) -> str:
        key = f"{self._prefix}{message_id}:{handler_name}"
        if len(key) <= _LONGEST_KEY:
            return key
        return self._prefix + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _hash_of(envelope: Envelope) -> str | None:
    claim_stamp = envelope.last(ClaimStamp)
    if claim_stamp is None:
        return None
    kind = type(envelope.message)
    name = f"{kind.__module__}.{kind.__qualname__}\0".encode()
    return hashlib.sha256(name + claim_stamp.body).hexdigest()


def _receiver_of(envelope: Envelope) -> str:
    received = envelope.last(ReceivedStamp)
    return received.transport_name if received is not None else ""


def _lost(key: str) -> InProgressElsewhereError:
    return InProgressElsewhereError(f'The claim on "{key}" was lost while its handler ran; somebody else has it.')
