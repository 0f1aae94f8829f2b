"""The envelope-level face of every transport, with Symfony's verbs, over any driver."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from typing import Final

from bus import aio
from bus.clock import Clock, SystemClock
from bus.envelope import Envelope
from bus.errors import ConfigurationError, TransportError
from bus.rate_limit import RateLimiter
from bus.serializer import Serializer
from bus.stamps import ClaimStamp, SentStamp, Stamp, TransportMessageIdStamp
from bus.transports.base import (
    Ack,
    Counts,
    CountsMessages,
    Delivery,
    Discard,
    Driver,
    GivesBack,
    HasPartitions,
    HasQueues,
    JoinsTransactions,
    KnowsNextDue,
    Lists,
    Outgoing,
    Park,
    Peeked,
    Requeue,
    Sent,
    SetsUp,
    SetsUpBySql,
    TakesMessages,
    Wakes,
)
from bus.transports.coalescing import SettlementBuffer
from bus.transports.codec import Codec, identified
from bus.unit import Transaction

logger = logging.getLogger(__name__)

# A worker past its grace gives its receivers 5 s: less, so that the claims are given back even when settling fails.
CLOSE_DEADLINE: Final = 3.0  # seconds


class Transport:
    """One configured transport: encodes, sends, receives and settles through its driver.

    Sending and settling are thread-safe; ``get`` belongs to one thread. Settlements are collected and carried out
    together: ``ack``, ``discard``, ``requeue`` and ``park`` return at once.

    Attributes:
        name: its name in the configuration.
        driver: what moves the bytes.
        max_deliveries: a message that was delivered more often without ever being settled is not decoded any more.
        clock: tells the time that stamps bear.
        rate_limiter: says how many of its messages workers may begin; None: any number. Set before they start.
        outbox: what every send is entrusted to, instead of waiting for the driver.
    """

    def __init__(
        self,
        name: str,
        driver: Driver,
        serializer: Serializer,
        *,
        max_deliveries: int = 3,
        clock: Clock | None = None,
        outbox: TakesMessages | None = None,
    ) -> None:
        self.name = name
        self.rate_limiter: RateLimiter | None = None
        self.driver = driver
        self._partitioned = driver if isinstance(driver, HasPartitions) else None
        self.max_deliveries = max_deliveries
        self.clock = clock or SystemClock()
        self.outbox = outbox
        self._codec = Codec(name, serializer)
        self._settlements = SettlementBuffer(name, driver.settle)
        self._sent = SentStamp(name)
        self._warned_of_loop = False
        self._readers: dict[int, object] = {}  # by process: a forked child begins without its parent's

    # --- sending ---

    def encode(self, envelope: Envelope) -> Outgoing:
        """Encode a message that begins its way. Its DelayStamp, if any, becomes the delay.

        Raises:
            EncodingError: the message or a stamp cannot be written.
            SendRefused: the body or the headers are too large.
        """
        return self._codec.encode(identified(envelope))

    def encode_received(self, envelope: Envelope, source: Transport, *, origin: str | None = None) -> Outgoing:
        """Encode a message that was received from ``source``, to be stored here, with the bytes that it came with.

        It is never refused: an error history that is too large is cut, and headers that still are move into the body.
        """
        return self._codec.encode_received(envelope, source._codec, origin=origin)

    def send(self, envelope: Envelope) -> Envelope:
        """Send a message and return its envelope, with a SentStamp, when the broker has taken responsibility.

        Raises:
            SendRefused: surely not stored.
            SendUnknown: perhaps stored; sending the same envelope again keeps the message id.
            TransportError: not tried.
            EncodingError: the message or a stamp cannot be written.
        """
        envelope = identified(envelope)
        result = self.send_each((self._codec.encode(envelope),))[0]
        if isinstance(result, TransportError):
            raise result
        stamps: tuple[Stamp, ...] = (self._sent,)
        if result.transport_id is not None:
            stamps = (self._sent, TransportMessageIdStamp(result.transport_id))
        return Envelope(envelope.message, envelope.stamps + stamps)

    def send_each(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Send encoded messages and return what became of each, in the same order.

        Raises:
            TransportError: none of them was tried.
        """
        if not self._warned_of_loop and aio.on_running_loop():
            self._warned_of_loop = True
            logger.warning(
                'A send to the transport "%s" blocks the running event loop; '
                "use await bus.dispatch_async(...) there. This is said once.",
                self.name,
                extra={"transport": self.name},
            )
        if self.outbox is not None:
            return aio.blocking(self.outbox.send, self.name, batch)
        return self.deliver(batch)

    def deliver(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Send encoded messages past any outbox; otherwise as ``send_each``."""
        return aio.blocking(self.driver.send, batch)

    def send_all(self, batch: Sequence[Outgoing]) -> None:
        """Send encoded messages; raise the first error where some did not get through."""
        for result in self.send_each(batch):
            if isinstance(result, TransportError):
                raise result

    def send_within(self, transaction: Transaction, batch: Sequence[Outgoing]) -> bool:
        """Store messages, here or in the outbox, as part of a transaction; False: neither is in its database."""
        if self.outbox is not None:
            return self.outbox.send_in(self.name, transaction, batch)
        return self.send_in(transaction, batch)

    def send_in(self, transaction: Transaction, batch: Sequence[Outgoing]) -> bool:
        """Store encoded messages as part of a handler's transaction; False: this transport is not in its database."""
        return isinstance(self.driver, JoinsTransactions) and self.driver.send_in(transaction, batch)

    # --- receiving ---

    def occupy(self) -> None:
        """Take it for one worker of this process, until ``vacate``: who closes it gives back what every reader holds.

        Raises:
            ConfigurationError: another worker of this process reads it.
        """
        reader = object()
        if self._readers.setdefault(os.getpid(), reader) is not reader:
            raise ConfigurationError(
                f'Another worker of this process reads the transport "{self.name}"; '
                "give one worker more concurrency, or start worker processes."
            )

    def vacate(self) -> None:
        """Leave it to the next worker."""
        self._readers.pop(os.getpid(), None)

    def get(self, limit: int, queues: Sequence[str] = ()) -> list[Envelope]:
        """Claim up to ``limit`` messages, possibly none; never wait for any.

        What cannot be decoded, and what was delivered too often without being settled, comes as an UndecodableMessage.

        Raises:
            TransportError: the server cannot be reached.
            ConfigurationError: ``queues`` are given and this transport has none to choose from.
        """
        self._settlements.open()
        if queues:
            if not isinstance(self.driver, HasQueues):
                raise ConfigurationError(f'The transport "{self.name}" has no queues to choose from.')
            deliveries = self.driver.get_from(queues, limit)
        else:
            deliveries = self.driver.get(limit)
        return [self._decode(delivery) for delivery in deliveries]

    def _decode(self, delivery: Delivery) -> Envelope:
        if delivery.claim.deliveries > self.max_deliveries:
            # Decoding it may be what kills its worker.
            return self._codec.leave_undecoded(delivery, undecoded_reason(delivery.claim.deliveries))
        return self._codec.decode(delivery)

    def seconds_until_due(self) -> float | None:
        """Return the seconds until a delayed message becomes due; None: none waits, or the driver cannot tell.

        Raises:
            TransportError: the server cannot be reached.
        """
        return self.driver.seconds_until_due() if isinstance(self.driver, KnowsNextDue) else None

    @property
    def ordered_window(self) -> int | None:
        """How many messages may wait behind failing ones in a partition; None: this transport keeps no order then."""
        return self._partitioned.ordered_window if self._partitioned is not None else None

    def pause(self, partitions: Collection[int]) -> None:
        """Get nothing of these partitions from now on, and of the others again. For the thread that calls ``get``."""
        if self._partitioned is not None:
            self._partitioned.pause(partitions)

    # --- settling ---

    @property
    def window(self) -> int:
        """How many messages the worker may hold; settlements leave when half of them are settled."""
        return self._settlements.window

    @window.setter
    def window(self, window: int) -> None:
        self._settlements.window = window

    @property
    def unsettled(self) -> int:
        """How many settlements have not taken effect yet."""
        return len(self._settlements)

    def ack(self, envelope: Envelope) -> None:
        """Remove a message that was handled, or is safely stored elsewhere. Returns at once; idempotent."""
        self._settlements.add(Ack(_claim_stamp(envelope).claim), envelope)

    def discard(self, envelope: Envelope) -> None:
        """Remove a message that is given up and stored nowhere else. Returns at once; idempotent."""
        self._settlements.add(Discard(_claim_stamp(envelope).claim), envelope)

    def requeue(self, envelope: Envelope, delay_ms: int) -> None:
        """Put a message back, with its original bytes and the envelope's stamps. Returns at once; idempotent.

        In a worker that keeps the order of its key it is not put back: it waits in place.
        """
        claim = _claim_stamp(envelope).claim
        if claim.in_place is not None:
            claim.in_place.wait(envelope, delay_ms)
            return
        outgoing = self._codec.encode_received(envelope, self._codec, delay_ms=delay_ms, origin=claim.origin)
        self._settlements.add(Requeue(claim, outgoing), envelope)

    def park(self, envelope: Envelope) -> None:
        """Keep a message without delivering it again, with the envelope's stamps. Returns at once; idempotent."""
        claim = _claim_stamp(envelope).claim
        outgoing = self._codec.encode_received(envelope, self._codec, origin=claim.origin)
        self._settlements.add(Park(claim, outgoing), envelope)

    def flush(self) -> None:
        """Carry out what is settled so far, and return when that was tried. Thread-safe."""
        aio.blocking(self._settlements.flush)

    def give_back(self) -> None:
        """Give back what was fetched and not begun, where the driver can before it is closed. From any thread.

        Raises:
            TransportError: the server cannot be reached; ``close`` gives them back then.
        """
        if isinstance(self.driver, GivesBack):
            aio.blocking(self.driver.give_back)

    def close(self) -> None:
        """Carry out what is settled, give back what was fetched and not begun, and let go.

        Idempotent, from any thread. Settlements that keep failing for 3 s are given up: those messages come back.
        """
        aio.blocking(self._settlements.close, CLOSE_DEADLINE)
        aio.blocking(self.driver.close)

    # --- capabilities ---

    def wakes(self, callback: Callable[[], None]) -> bool:
        """Have ``callback`` called when messages may have arrived; False: this transport cannot tell."""
        if not isinstance(self.driver, Wakes):
            return False
        self.driver.on_arrival(callback)
        return True

    def set_up(self) -> bool:
        """Create what is missing on the server; False: there is nothing to set up."""
        if not isinstance(self.driver, SetsUp):
            return False
        self.driver.set_up()
        return True

    def check(self) -> list[str] | None:
        """Return what is missing on the server, one sentence each; None: there is nothing to set up."""
        return list(self.driver.check()) if isinstance(self.driver, SetsUp) else None

    def ddl(self) -> list[str] | None:
        """Return the SQL statements that ``set_up`` would execute now; None: it does not execute any."""
        return list(self.driver.ddl()) if isinstance(self.driver, SetsUpBySql) else None

    def counts(self) -> Counts | None:
        """Return how many messages there are; None: this transport cannot tell."""
        return self.driver.counts() if isinstance(self.driver, CountsMessages) else None

    def peek(self, limit: int, after: str | int | None = None) -> list[Envelope] | None:
        """Return up to ``limit`` messages from behind the transport's id ``after``, claiming none; None: cannot."""
        if not isinstance(self.driver, Lists):
            return None
        return [self.decode(each) for each in self.driver.peek(limit, after)]

    def decode(self, peeked: Peeked) -> Envelope:
        """Return a message that was looked at, without a claim; one that cannot be read is an UndecodableMessage."""
        return self._codec.decode_peeked(peeked)

    def take(self, transport_id: str | int) -> Envelope | None:
        """Claim this message, parked ones too; None when it is gone, held by somebody else, or this cannot be done."""
        if not isinstance(self.driver, Lists):
            return None
        self._settlements.open()
        delivery = self.driver.take(transport_id)
        return None if delivery is None else self._codec.decode(delivery)


def undecoded_reason(deliveries: int) -> str:
    """Say why a message is not looked at any more."""
    return (
        f"The message was delivered {deliveries} times without ever being settled; "
        "it probably kills its worker and was not read again."
    )


def _claim_stamp(envelope: Envelope) -> ClaimStamp:
    stamp = envelope.last(ClaimStamp)
    if stamp is None:
        raise ValueError("Only a message that was received, and bears its ClaimStamp, can be settled.")
    return stamp
