"""Keeps a message from being dispatched while its twin is on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from typing import Final

from bus import aio
from bus.deduplication import DeduplicatedStamp, DeduplicateStamp
from bus.envelope import Envelope
from bus.errors import SendFailedError, TransportError
from bus.identity import uuid7
from bus.log_context import log_context, message_id_of
from bus.middleware.base import CallNext
from bus.stamps import (
    CausationStamp,
    HeldStamp,
    MessageIdStamp,
    ReceivedStamp,
    SentStamp,
    Stamp,
)
from bus.store.base import JoinsTransactions, Store
from bus.unit import Unit, current_unit

logger = logging.getLogger(__name__)

_PREFIX: Final = "deduplicate:"
_LONGEST_KEY: Final = 250  # characters, which every store can index
_SENT: Final = "sent"
_HELD: Final = "held"


class DeduplicateMiddleware:
    """Takes the key of a message with a DeduplicateStamp when it is dispatched; while it is taken, twins are dropped.

    A dropped message comes back with a DeduplicatedStamp and is neither sent nor handled. The key is free again when
    the message was handled once, whatever came of it, or, with ``only_deduplicate_in_queue``, right before that; when
    the dispatch or the handler around it failed; and in any case after the stamp's ``ttl``. Dispatching the same
    envelope again is no duplicate of itself.

    ``store`` returns what all who dispatch and consume share; it is asked for when the first such message comes. Each
    dispatch and each consumption of one costs one or two steps in it.
    """

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._token = uuid7()

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Pass the message on unless its key is taken.

        Raises:
            TransportError: the store does not answer; the message was not dispatched.
        """
        for stamp in reversed(envelope.stamps):
            if type(stamp) is DeduplicateStamp:
                return self._with_key(envelope, stamp, call_next)
        return call_next(envelope)

    def _with_key(self, envelope: Envelope, stamp: DeduplicateStamp, call_next: CallNext) -> Envelope:
        if envelope.last(ReceivedStamp) is None:
            return self._dispatched(envelope, stamp, call_next)
        if stamp.only_deduplicate_in_queue:
            _Key(self._store(), envelope, stamp).let_go()
            return call_next(envelope)
        try:
            return call_next(envelope)
        finally:
            _Key(self._store(), envelope, stamp).let_go()

    def _dispatched(self, envelope: Envelope, stamp: DeduplicateStamp, call_next: CallNext) -> Envelope:
        unit = current_unit.get()
        key = _Key(self._store(), envelope, stamp)
        if not aio.blocking(key.take, self._attempt() if isinstance(unit, Unit) else ""):
            logger.info(
                'Message %s is dropped: another one has its key "%s"',
                message_id_of(envelope),
                stamp.key,
                extra=log_context(envelope, ""),
            )
            return envelope.with_(DeduplicatedStamp(stamp.key))
        try:
            result = call_next(envelope)
        except BaseException as error:
            # Where one of several transports has the message, it is on the way.
            if not (isinstance(error, SendFailedError) and error.sent):
                key.let_go()
            raise
        if unit is not None and _count(result, HeldStamp) > _count(envelope, HeldStamp):
            unit.after_failure(key.let_go)
            if isinstance(unit, Unit):
                unit.before_commit(lambda: key.was_sent(unit))
        elif _count(result, SentStamp) == _count(envelope, SentStamp):
            key.let_go()
        return result

    def _attempt(self) -> str:
        """Return what tells the handler calls of this process from those of one that died."""
        return f"{os.getpid()}.{self._token}"


class _Key:
    """A key and the message that has it, or wants it.

    Its value is a JSON list: "sent" and the id of the message; or, until the handler that dispatched it has succeeded,
    "held", the id, the id of the handler's message, and the process. Should that process die, nothing was sent, and
    the handler's next attempt in another one takes the key over.
    """

    def __init__(self, store: Store, envelope: Envelope, stamp: DeduplicateStamp) -> None:
        identity, cause = envelope.last(MessageIdStamp), envelope.last(CausationStamp)
        self._store = store
        self._key = _PREFIX + stamp.key
        if len(self._key) > _LONGEST_KEY:
            self._key = _PREFIX + hashlib.sha256(stamp.key.encode("utf-8", "surrogatepass")).hexdigest()
        self._ttl = stamp.ttl
        self._id = identity.id if identity is not None else ""
        self._cause = cause.id if cause is not None else ""
        self._sent = json.dumps([_SENT, self._id])
        self._value = self._sent

    def take(self, attempt: str) -> bool:
        """Take the key unless another message has it; ``attempt`` is empty outside of handlers."""
        if attempt:
            self._value = json.dumps([_HELD, self._id, self._cause, attempt])
        # Each round something else has happened to the key in between.
        while not self._store.put_if_absent(self._key, self._value, self._ttl):
            holder = self._store.get(self._key)
            if holder is None:
                continue
            if not self._may_replace(holder, attempt):
                return False
            if self._store.swap(self._key, holder, self._value, self._ttl):
                break
        return True

    def was_sent(self, unit: Unit) -> None:
        """Note that the message is on its way, where that is certain now: sent, or part of a commit."""
        transaction = unit.transaction
        if transaction is None or (isinstance(self._store, JoinsTransactions) and self._store.joins(transaction)):
            self._try(lambda: self._store.swap(self._key, self._value, self._sent, self._ttl))

    def let_go(self) -> None:
        """Free the key if this message has it."""
        self._try(self._free)

    def _free(self) -> None:
        if not self._store.delete_if(self._key, self._sent):
            holder = self._store.get(self._key)
            if holder is not None and json.loads(holder)[1] == self._id:
                self._store.delete_if(self._key, holder)

    def _may_replace(self, holder: str, attempt: str) -> bool:
        """Tell whether the holder is this message, or one that a dead attempt at the same handler never sent."""
        state, identity, *held = json.loads(holder)
        if identity == self._id:
            return True
        return state == _HELD and attempt != "" and held[0] == self._cause and held[1] != attempt

    def _try(self, step: Callable[[], object]) -> None:
        """Make a step that nothing depends on: the key is free after its time anyway."""
        try:
            aio.blocking(step)
        except TransportError as error:
            logger.warning('The key "%s" of a message stays taken until its time is over: %s', self._key, error)


def _count(envelope: Envelope, kind: type[Stamp]) -> int:
    return len(envelope.all(kind))
