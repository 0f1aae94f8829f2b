"""Where a worker's messages come from: which receiver is asked when, and for how many."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from bus import failpoints
from bus.clock import Clock
from bus.envelope import Envelope
from bus.errors import AccessDeniedError, ConfigurationError, TransportError, describe
from bus.lanes import ReceivedMessage
from bus.ordered import InPlace, RestingLanes
from bus.polling import Polling
from bus.stamps import ClaimStamp, PartitionKeyStamp
from bus.throttle import Throttle
from bus.transports.base import Claim
from bus.transports.transport import Transport
from bus.window import Window
from bus.worker_options import WorkerOptions

logger = logging.getLogger(__name__)

_CLOSING: Final = 5.0  # seconds that all receivers together get to let go of their claims in an emergency


class Receiver:
    """A transport as the worker sees it: how much it may hold, and when it is asked."""

    __slots__ = ("contacted", "polling", "position", "resting", "throttle", "transport", "window")

    def __init__(self, position: int, transport: Transport, options: WorkerOptions, resting: RestingLanes) -> None:
        self.position = position
        self.resting = resting
        self.transport = transport
        self.window = Window(options.concurrency, options.fetch_size)
        self.polling = Polling(options.sleep)
        self.throttle = Throttle(transport.rate_limiter)
        self.contacted = False

    @property
    def free(self) -> int:
        """How many messages may be fetched: what it holds and what is not settled yet count, resting lanes do not."""
        held = self.window.held - self.resting.held(self.position)
        return self.window.capacity - held - self.transport.unsettled

    def has_room(self, *, starved: bool) -> bool:
        """Tell whether half of the window is free, or any of it when the worker is starved."""
        free = self.free
        return free > 0 and (starved or free * 2 >= self.window.capacity)

    def is_due(self, now: float) -> bool:
        """Tell whether it may have something to give now."""
        return self.throttle.is_open(now) and (self.throttle.holds or self.polling.is_due(now))

    def wait(self, now: float) -> float:
        """Return the seconds until it may have something to give, unless it wakes the worker."""
        return max(self.throttle.wait(now), 0.0 if self.throttle.holds else self.polling.wait(now))


class Intake:
    """Asks receivers for messages, the first one first. One thread uses it, the worker's; ``abandon`` is for any.

    Errors of a receiver are logged and it is asked again later, with growing pauses; the others go on meanwhile.
    """

    def __init__(
        self,
        transports: Sequence[Transport],
        options: WorkerOptions,
        clock: Clock,
        wake: Callable[[], None],
        resting: RestingLanes | None = None,
    ) -> None:
        self._resting = RestingLanes() if resting is None else resting
        self.receivers = tuple(Receiver(at, each, options, self._resting) for at, each in enumerate(transports))
        self._options = options
        self._clock = clock
        self._wake = wake

    def open(self) -> None:
        """Take the receivers for this worker.

        Raises:
            ConfigurationError: another worker of this process reads one of them.
        """
        taken: list[Transport] = []
        try:
            for receiver in self.receivers:
                receiver.transport.occupy()
                taken.append(receiver.transport)
        except ConfigurationError:
            for transport in taken:
                transport.vacate()
            raise

    def fetch(self, most: int, *, starved: bool) -> Sequence[ReceivedMessage]:
        """Ask the receivers that are due and return what the first one with messages gives, at most ``most``.

        A receiver is asked when half of its window is free, or as soon as any of it is when the worker is ``starved``:
        when it holds nothing that could begin. Returns at once.

        Raises:
            AccessDeniedError: at the first contact.
            ConfigurationError: the receiver cannot be consumed as it is.
            Exception: any error, with ``fail_fast``.
        """
        now = self._clock.monotonic()
        for receiver in self.receivers:
            if not receiver.is_due(now):
                continue
            if starved:
                receiver.transport.flush()
            if receiver.throttle.holds or receiver.has_room(starved=starved):
                messages = self._ask(receiver, most)
                if messages:
                    return messages
        return ()

    def wants_to_fetch(self, position: int) -> bool:
        """Tell whether this receiver is due and half of its window free. From any thread."""
        receiver = self.receivers[position]
        return (receiver.throttle.holds or receiver.has_room(starved=False)) and receiver.is_due(
            self._clock.monotonic()
        )

    def seconds_until_due(self, *, starved: bool) -> float:
        """Return how long no receiver needs to be asked, unless one wakes the worker; never longer than ``sleep``."""
        now = self._clock.monotonic()
        shortest = self._options.sleep
        for receiver in self.receivers:
            wait = receiver.wait(now)
            # One that is due and has no room is looked at again when something was settled.
            if wait > 0 or receiver.has_room(starved=starved):
                shortest = min(shortest, wait)
        return shortest

    def make_due(self) -> None:
        """Have every receiver asked at the next fetch, those excepted that wait after an error."""
        for receiver in self.receivers:
            receiver.polling.wake()

    @property
    def healthy(self) -> bool:
        """Whether every receiver could be asked when it was last tried, and its settlements took effect."""
        now = self._clock.monotonic()
        return not any(
            each.polling.failing or each.transport.unsettled or each.throttle.holds or not each.throttle.is_open(now)
            for each in self.receivers
        )

    def flush(self) -> None:
        """Bring the settlements that are on their way to the servers."""
        for receiver in self.receivers:
            receiver.transport.flush()

    def give_back(self) -> None:
        """Give back what was fetched and not begun, while the rest is still being handled. From any thread."""
        for receiver in self.receivers:
            try:
                receiver.transport.give_back()
            except Exception as error:  # noqa: BLE001 - the other receivers still give back
                name = receiver.transport.name
                logger.warning('Transport "%s" gives nothing back before it is closed: %s', name, describe(error))

    def close(self) -> None:
        """Flush, give back what was not begun, and close every receiver."""
        for receiver in self.receivers:
            self._close(receiver.transport)
            receiver.transport.vacate()

    def abandon(self) -> None:
        """Flush and close every receiver within 5 s, at the same time, whatever hangs. From any thread."""
        threads = [
            threading.Thread(target=self._close, args=(each.transport,), name="bus-abandon", daemon=True)
            for each in self.receivers
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + _CLOSING
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _ask(self, receiver: Receiver, most: int) -> Sequence[ReceivedMessage]:
        """Return what waits for the receiver's rate limit, or else what it gives, as far as the limit allows."""
        now = self._clock.monotonic()
        try:
            if receiver.throttle.holds:
                return receiver.throttle.let_through((), most, now)
            limit = receiver.throttle.room(min(receiver.free, most), now)
            messages = self._get(receiver, limit) if limit else ()
            return receiver.throttle.let_through(messages, most, now)
        except Exception as error:
            if self._options.fail_fast or isinstance(error, ConfigurationError):
                raise
            if isinstance(error, AccessDeniedError) and not receiver.contacted:
                raise
            self._failed(receiver, error)
            return ()

    def _get(self, receiver: Receiver, limit: int) -> Sequence[ReceivedMessage]:
        receiver.polling.asked()
        if not receiver.contacted:
            receiver.polling.can_wake = receiver.transport.wakes(lambda: self._arrived(receiver))
        self._pause_full_partitions(receiver)
        envelopes = receiver.transport.get(limit, self._options.queues)
        receiver.contacted = True
        messages = [_received(each, receiver.position) for each in envelopes]
        if receiver.transport.ordered_window is not None:
            for each in messages:
                if each.key is not None and each.claim.partition is not None:
                    each.claim.in_place = InPlace(each, self._clock)
        suspects = sum(each.suspect for each in messages)
        if messages:
            receiver.window.arrived(len(messages), fresh=suspects < len(messages))
            receiver.transport.window = receiver.window.capacity
            failpoints.reach("received")
        # A driver hands out a suspect alone, however many were asked for.
        full = len(messages) >= limit or suspects > 0
        # Not with messages in hand: an error would lose sight of them.
        next_due = None if messages else receiver.transport.seconds_until_due()
        if receiver.polling.answered(self._clock.monotonic(), len(messages), full=full, next_due=next_due):
            logger.info('Transport "%s" can be read again', receiver.transport.name)
        return messages

    def _pause_full_partitions(self, receiver: Receiver) -> None:
        window = receiver.transport.ordered_window
        if window is not None:
            receiver.transport.pause(self._resting.full_partitions(receiver.position, window))

    def _arrived(self, receiver: Receiver) -> None:
        receiver.polling.wake()
        self._wake()

    def _failed(self, receiver: Receiver, error: Exception) -> None:
        receiver.window.suspect()
        pause = receiver.polling.failed(self._clock.monotonic())
        name = receiver.transport.name
        if isinstance(error, AccessDeniedError):
            logger.error('Transport "%s" denies access: %s; trying again in %.1f s', name, describe(error), pause)
        elif isinstance(error, TransportError):
            logger.warning('Transport "%s" cannot be read: %s; trying again in %.1f s', name, describe(error), pause)
        else:
            logger.error(
                'Transport "%s" failed in an unexpected way; trying again in %.1f s', name, pause, exc_info=error
            )

    @staticmethod
    def _close(transport: Transport) -> None:
        try:
            transport.close()
        except Exception as error:  # noqa: BLE001 - the other receivers are still closed
            logger.warning(
                'Transport "%s" was not closed cleanly: %s; its messages come back when their claims expire',
                transport.name,
                describe(error),
            )


def _received(envelope: Envelope, position: int) -> ReceivedMessage:
    claim: Claim | None = None
    key: str | None = None
    for stamp in envelope.stamps:
        if isinstance(stamp, ClaimStamp):
            claim = stamp.claim
        elif isinstance(stamp, PartitionKeyStamp):
            key = stamp.key
    assert claim is not None
    return ReceivedMessage(envelope, claim, position, key)
