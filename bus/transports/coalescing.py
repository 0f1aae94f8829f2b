"""Settlements of one transport, collected and carried out together.

One round trip settles many messages. A settlement leaves when half of the window is settled, when somebody flushes, and
at the latest 20 ms after it was decided, by a timer thread that lives only while there is something to do.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from bus import aio, failpoints
from bus.envelope import Envelope
from bus.errors import ConnectionLostError, TransportError, describe
from bus.log_context import log_context, message_id_of
from bus.transports.base import Claim, Settlement

logger = logging.getLogger(__name__)

LATEST: Final = 0.020  # seconds from the oldest decision to its settlement
_LINGER: Final = 0.25  # seconds without work after which the timer thread ends; starting one costs 100 µs
_FIRST_PAUSE: Final = 0.1  # seconds before a failed settlement is tried again, doubling
_LONGEST_PAUSE: Final = 5.0

_HOPELESS: Final = 3  # so many single failures in a row mean that the server is in trouble, not the messages

_Waiting: TypeAlias = tuple[Settlement, Envelope]
_Settle: TypeAlias = Callable[[Sequence[Settlement]], Sequence[Claim]]


class SettlementBuffer:
    """Holds the settlements of one transport until they took effect. Thread-safe.

    A settlement that fails stays and is tried again until it succeeds, its claim is withdrawn, or ``close`` runs out of
    time. After a fork the child starts empty: what the parent claimed, the parent settles.

    Attributes:
        window: how many messages the worker may hold.
    """

    def __init__(self, transport_name: str, settle: _Settle) -> None:
        self.window = 100
        self._name = transport_name
        self._settle = settle
        self._start_empty()
        _buffers.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()  # around the fields below, for a few instructions
        self._waiting: list[_Waiting] = []
        self._oldest = 0.0
        self._in_hand = 0
        self._failed: list[_Waiting] = []
        self._failures = 0
        self._not_before = 0.0
        self._unreachable = False
        self._closed = False
        self._timer: threading.Thread | None = None
        self._settling = threading.Lock()  # around the driver's call: one batch after the other
        self._hurry = threading.Event()

    def __len__(self) -> int:
        """Return how many settlements have not taken effect yet."""
        return len(self._waiting) + self._in_hand + len(self._failed)

    def open(self) -> None:
        """Take settlements again after ``close``: messages are fetched anew."""
        self._closed = False

    def add(self, settlement: Settlement, envelope: Envelope) -> None:
        """Take a settlement; the first one of a claim counts. Returns at once, except when it makes a batch full."""
        with self._lock:
            if not settlement.claim.settle():
                return
            closed = self._closed
            if not closed:
                self._waiting.append((settlement, envelope))
                count = len(self._waiting)
                if count == 1:
                    self._oldest = time.monotonic()
        if closed:
            self._log_lost(envelope)
            return
        if count * 2 >= self.window:
            if aio.in_greenlet():
                self._hurry.set()
            elif self._settling.acquire(blocking=False):
                # Where another thread settles just now, the timer takes this batch.
                try:
                    self._settle_waiting()
                finally:
                    self._settling.release()
        if self._timer is None and (self._waiting or self._failed):
            self._start_timer()

    def flush(self) -> None:
        """Carry out what waits; return when that was tried. During the pause after a failure nothing is tried."""
        if len(self):
            with self._settling:
                self._settle_waiting()

    def close(self, timeout: float) -> None:
        """Carry out what waits within ``timeout`` seconds, give up the rest, end the timer thread. Idempotent."""
        deadline = time.monotonic() + timeout
        while self._settling.acquire(timeout=max(0.0, deadline - time.monotonic())):
            try:
                self._not_before = 0.0
                self._settle_waiting()
            finally:
                self._settling.release()
            pause = min(self._not_before, deadline) - time.monotonic()
            if not len(self) or pause <= 0:
                break
            time.sleep(pause)
        with self._lock:
            self._closed = True
            given_up = self._failed + self._waiting
            self._failed, self._waiting = [], []
            timer = self._timer
        for _, envelope in given_up:
            self._log_given_up(envelope)
        self._hurry.set()
        if timer is not None and timer is not threading.current_thread():
            timer.join(max(0.0, deadline - time.monotonic()))

    # --- carrying out; the caller holds self._settling ---

    def _settle_waiting(self) -> None:
        with self._lock:
            batch = self._next_batch()
            self._in_hand = len(batch)
        if not batch:
            return
        unsettled = batch
        try:
            unsettled = self._carry_out(batch)
        finally:
            self._keep(unsettled)

    def _next_batch(self) -> list[_Waiting]:
        pausing = bool(self._failed) and time.monotonic() < self._not_before
        if pausing and self._unreachable:
            return []
        batch, self._waiting = self._waiting, []
        if not pausing:
            batch, self._failed = self._failed + batch, []
        return batch

    def _keep(self, unsettled: list[_Waiting]) -> None:
        with self._lock:
            self._in_hand = 0
            if unsettled:
                self._failed += unsettled
                pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
                self._failures = min(self._failures + 1, 16)
                self._not_before = time.monotonic() + pause * random.uniform(0.75, 1.0)  # noqa: S311 - spreads workers
            elif not self._failed:
                self._failures = 0

    def _carry_out(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Settle a batch and return what has to be tried again."""
        self._unreachable = False
        valid = [each for each in batch if not each[0].claim.withdrawn]
        for _, envelope in (each for each in batch if each[0].claim.withdrawn):
            self._log_lost(envelope)
        if not valid:
            return []
        try:
            self._settle_now(valid)
        except Exception as error:  # noqa: BLE001 - logged, and tried again: whatever it is, no settlement is lost
            self._log_failed(len(valid), error)
            if len(valid) > 1 and not isinstance(error, ConnectionLostError):
                # One settlement that the server does not take must not hold back the others.
                return self._one_by_one(valid)
            self._unreachable = len(valid) > 1 or isinstance(error, ConnectionLostError)
            return valid
        return []

    def _one_by_one(self, batch: list[_Waiting]) -> list[_Waiting]:
        failed: list[_Waiting] = []
        for position, each in enumerate(batch):
            if len(failed) == _HOPELESS and position == _HOPELESS:
                self._unreachable = True
                return batch[position:] + failed
            try:
                self._settle_now([each])
            except Exception as error:  # noqa: BLE001 - as above
                self._log_failed(1, error)
                failed.append(each)
        return failed

    def _settle_now(self, batch: list[_Waiting]) -> None:
        failpoints.reach("before_settle")
        lost = self._settle([settlement for settlement, _ in batch])
        failpoints.reach("after_settle")
        if lost:
            for settlement, envelope in batch:
                if any(claim is settlement.claim for claim in lost):
                    self._log_lost(envelope)

    # --- the timer thread ---

    def _start_timer(self) -> None:
        with self._lock:
            if self._timer is not None or self._closed:
                return
            timer = threading.Thread(target=self._run_timer, name=f"bus-settle-{self._name}", daemon=True)
            self._timer = timer
        try:
            timer.start()
        except RuntimeError:
            # No thread can be had, as while the interpreter ends: then at once, here.
            self._timer = None
            self.flush()

    def _run_timer(self) -> None:
        last_work = time.monotonic()
        while True:
            hurried = self._hurry.wait(self._until_due())
            self._hurry.clear()
            with self._lock:
                now = time.monotonic()
                if len(self):
                    last_work = now
                if self._closed or now - last_work > _LINGER:
                    self._timer = None
                    return
                due = hurried or self._due_at() <= now
            if due:
                self.flush()

    def _until_due(self) -> float:
        with self._lock:
            return max(0.0, self._due_at() - time.monotonic())

    def _due_at(self) -> float:
        due_at = time.monotonic() + LATEST
        if self._waiting:
            due_at = self._oldest + LATEST
        if self._failed:
            due_at = self._not_before if self._unreachable else min(due_at, self._not_before)
        return due_at

    # --- what a person reads ---

    def _log_lost(self, envelope: Envelope) -> None:
        logger.warning(
            'Claim lost: message %s of "%s" was settled too late; it is delivered again, or somebody else has it',
            message_id_of(envelope),
            self._name,
            extra=log_context(envelope, self._name),
        )

    def _log_given_up(self, envelope: Envelope) -> None:
        logger.warning(
            'Message %s of "%s" could not be settled before the transport was closed; it is delivered again',
            message_id_of(envelope),
            self._name,
            extra=log_context(envelope, self._name),
        )

    def _log_failed(self, count: int, error: BaseException) -> None:
        logger.warning(
            'Settling %s messages of "%s" failed and is tried again: %s',
            count,
            self._name,
            describe(error),
            exc_info=None if isinstance(error, TransportError) else error,
            extra={"transport": self._name},
        )


# A lock that another thread held while the process forked would stay locked for ever in the child.
_buffers: weakref.WeakSet[SettlementBuffer] = weakref.WeakSet()


def _start_empty_in_child() -> None:
    for buffer in _buffers:
        buffer._start_empty()


os.register_at_fork(after_in_child=_start_empty_in_child)
