"""What a driver is: it moves bytes and claims, and never sees a message object.

What is made for every message that is received is a frozen msgspec Struct: it is made ten times as fast as a frozen
dataclass.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, runtime_checkable

import msgspec

from bus.errors import TransportError
from bus.forking import this_process
from bus.stamps import NonSendableStamp

if TYPE_CHECKING:
    from bus.envelope import Envelope
    from bus.unit import Transaction


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded message on its way to a driver.

    ``delay_ms`` counts from the send. With an ``origin`` (a Claim's) the message reaches that queue, group or stream
    only. ``attempt`` is the number of retries so far. ``native`` is the driver's own stamp, such as an AmqpStamp.
    """

    message_id: str
    body: bytes
    headers: Mapping[str, str]
    delay_ms: int = 0
    origin: str | None = None
    attempt: int = 0
    priority: int = 0
    partition_key: str | None = None
    native: object | None = None


class Sent(msgspec.Struct, frozen=True):
    """The broker has taken responsibility. ``transport_id`` is its own id of the message, where it gives one."""

    transport_id: str | int | None = None


class WaitsInPlace(Protocol):
    """What keeps a message that is put back at the head of its lane, so that its followers do not overtake it."""

    def has_time_for(self, delay_ms: int) -> bool:
        """Tell whether it may be retried once more after this delay; otherwise it is given up."""

    def wait(self, envelope: Envelope, delay_ms: int) -> None:
        """Have the message begun again after the delay. Its claim stays."""


# One lock for all claims: it is held for two assignments, and a lock per claim would cost more than it saves.
_beginning = threading.Lock()
# Held across a fork, so that no other thread can hold it then and leave it locked in the child for ever.
os.register_at_fork(before=_beginning.acquire, after_in_parent=_beginning.release, after_in_child=_beginning.release)


class Claim:
    """The right to handle one delivered message until it is settled.

    A driver keeps the claim alive from ``get`` until its settlement took effect, by itself, from a thread of its own.
    Drivers extend this class where they need more than a flag. Thread-safe: each method is one step.

    Attributes:
        transport_id: the transport's own id of this copy.
        deliveries: how often this copy was delivered without ever being settled; 1 is a fresh message. It counts
            outside the process, so a message that kills its worker cannot hide; giving back does not raise it.
        origin: the queue, topic+group or stream+group that it came from; retry queues report the main one.
        native: the driver's ``*ReceivedStamp``, or None.
        has_stable_id: whether ``transport_id`` is the same at every delivery of this copy.
        partition: the partition that it came from, which this process owns; None: from none.
        in_place: where the message waits when it is put back, set by a worker that keeps order; None: in the transport.
    """

    has_stable_id: ClassVar[bool] = True

    __slots__ = (
        "_begun",
        "_forks",
        "_settled",
        "_withdrawn",
        "deliveries",
        "in_place",
        "native",
        "origin",
        "partition",
        "transport_id",
    )

    def __init__(
        self,
        transport_id: str | int,
        deliveries: int,
        origin: str,
        native: NonSendableStamp | None = None,
        *,
        partition: int | None = None,
    ) -> None:
        self.transport_id = transport_id
        self.deliveries = deliveries
        self.origin = origin
        self.native = native
        self.partition = partition
        self.in_place: WaitsInPlace | None = None
        self._begun = False
        self._withdrawn = False
        self._settled = False
        self._forks = this_process.forks

    def begin(self) -> bool:
        """Begin an attempt. False means that the driver has withdrawn the claim and the message is to be skipped.

        Once begun, the driver waits for the settlement.
        """
        with _beginning:
            self._begun = not self._withdrawn
            return self._begun

    def rest(self) -> None:
        """Say that an attempt ended and the message waits in place: unbegun again, so that stop can give it back."""
        self._begun = False

    def withdraw(self) -> None:
        """Say that the claim is lost: the message is somebody else's now. Called by the driver; final."""
        self._withdrawn = True

    def withdraw_unless_begun(self) -> bool:
        """Withdraw the claim, in one step with the check that no attempt has begun. Called by the driver."""
        with _beginning:
            if not self._begun:
                self._withdrawn = True
            return not self._begun

    def settle(self) -> bool:
        """Decide on a settlement; False: it is ``settled`` already. Called by one thread at a time."""
        if self.settled:
            return False
        self._settled = True
        return True

    @property
    def settled(self) -> bool:
        """Whether a settlement is decided, or not ours to decide: after a fork that is the parent's."""
        return self._settled or self._forks != this_process.forks

    @property
    def begun(self) -> bool:
        """Whether an attempt runs or has run and waits for its settlement."""
        return self._begun

    @property
    def withdrawn(self) -> bool:
        """Whether the driver has taken the claim away."""
        return self._withdrawn


class Delivery(msgspec.Struct, frozen=True):
    """Raw bytes and headers of one message, with the claim on it."""

    body: bytes
    headers: Mapping[str, str]
    claim: Claim


class Ack(msgspec.Struct, frozen=True):
    """The message was handled, or is safely stored elsewhere: remove it."""

    claim: Claim


class Discard(msgspec.Struct, frozen=True):
    """The message is given up and stored nowhere else: remove it; a broker's own dead letter, if any, gets it."""

    claim: Claim


class Requeue(msgspec.Struct, frozen=True):
    """Put the message back into delivery with these headers, after ``outgoing.delay_ms``: the only way back.

    Same message id; atomic where the store can, otherwise sent with confirmation and then acknowledged.
    """

    claim: Claim
    outgoing: Outgoing


class Park(msgspec.Struct, frozen=True):
    """Keep the message, with these headers, without delivering it again; ``peek`` and ``take`` see it."""

    claim: Claim
    outgoing: Outgoing


Settlement: TypeAlias = Ack | Discard | Requeue | Park


class Driver(Protocol):
    """Moves bytes and claims between this process and one broker or store."""

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Send messages and return when the broker has them, one result per message in the same order.

        Thread-safe. Never hangs: a message without an answer within the deadline of 5 s is a SendUnknown. A message
        that is surely not stored is a SendRefused. Raises TransportError where nothing of the batch was tried.
        """

    def get(self, limit: int) -> Sequence[Delivery]:
        """Return up to ``limit`` claimed messages at once, possibly none; never waits for messages.

        Called by one thread. A message that was delivered before without being settled (``deliveries`` > 1) is
        claimed alone, so that the innocent do not share the count of a message that kills its worker.
        Raises TransportError where the server cannot be reached.
        """

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        """Carry out settlements and return the claims that were lost: nothing of theirs was touched.

        Thread-safe, fenced by the claim's owner, idempotent. Raises TransportError where the outcome is unknown or
        the server cannot be reached; the caller then settles the same batch again.
        """

    def close(self) -> None:
        """Flush, give back what was fetched and not begun, and let go. Idempotent; from any thread."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages a transport holds. None: this transport cannot tell."""

    ready: int
    delayed: int | None = None
    in_flight: int | None = None
    parked: int | None = None


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message seen without claiming it. ``state`` is ready, delayed, in_flight or parked."""

    transport_id: str | int
    body: bytes
    headers: Mapping[str, str]
    state: str = "ready"


@runtime_checkable
class Wakes(Protocol):
    """A driver that can tell when something may be there, instead of being asked."""

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` from the driver's own thread whenever messages may have arrived."""


@runtime_checkable
class KnowsNextDue(Protocol):
    """A driver that is not woken by delayed messages, and can tell when the next one is there."""

    def seconds_until_due(self) -> float | None:
        """Return the seconds until the next delayed message becomes due; None: none waits. Called beside ``get``."""


@runtime_checkable
class GivesBack(Protocol):
    """A driver that can give back what was not begun while what was begun is still being handled."""

    def give_back(self) -> None:
        """Give back, uncounted, what was fetched and not begun. From any thread; idempotent.

        Raises TransportError where the server cannot be reached; ``close`` gives them back then.
        """


@runtime_checkable
class SetsUp(Protocol):
    """A driver with something to create on its server."""

    def set_up(self) -> None:
        """Create what is missing. Harmless when called again."""

    def check(self) -> Sequence[str]:
        """Return what is missing, one sentence each; empty when everything is there. Changes nothing."""


@runtime_checkable
class SetsUpBySql(Protocol):
    """What sets itself up by SQL statements, which somebody else may execute."""

    def ddl(self) -> Sequence[str]:
        """Return the statements that ``set_up`` would execute now; none when nothing is missing. Changes nothing."""


@runtime_checkable
class CountsMessages(Protocol):
    """A driver that knows how many messages it holds."""

    def counts(self) -> Counts:
        """Return the numbers at this moment."""


@runtime_checkable
class Lists(Protocol):
    """A driver whose messages can be looked at, and taken one by one."""

    def peek(self, limit: int, after: str | int | None = None) -> Sequence[Peeked]:
        """Return up to ``limit`` messages in order of their transport id, from behind ``after``, claiming none."""

    def take(self, transport_id: str | int) -> Delivery | None:
        """Claim this message, parked ones too; None when it is gone or somebody else holds it."""


@runtime_checkable
class HasQueues(Protocol):
    """A driver that reads several queues and can be asked for some of them."""

    def get_from(self, queues: Sequence[str], limit: int) -> Sequence[Delivery]:
        """As ``Driver.get``, from these queues only."""


@runtime_checkable
class JoinsTransactions(Protocol):
    """A driver whose messages stand in a database, so that a handler's transaction can store them itself."""

    def send_in(self, transaction: Transaction, batch: Sequence[Outgoing]) -> bool:
        """Store messages as part of the transaction, whose commit is the promise; False: it is another database."""


class TakesMessages(Protocol):
    """An outbox: it takes messages for a transport, and has them sent later where they cannot be sent now."""

    def send(self, transport: str, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Keep messages durably until the transport has them. Raises TransportError where they are not kept."""

    def send_in(self, transport: str, transaction: Transaction, batch: Sequence[Outgoing]) -> bool:
        """Keep messages as part of a transaction, whose commit is the promise; False: it is on another database."""


@runtime_checkable
class HasPartitions(Protocol):
    """A driver whose keyed messages stand in partitions, each read by one live worker."""

    @property
    def ordered_window(self) -> int | None:
        """How many messages may wait behind failing ones before their partition pauses.

        None: a message that fails does not hold back those of its key; it is requeued.
        """

    def pause(self, partitions: Collection[int]) -> None:
        """Hand out nothing of these partitions from now on, and of the others again."""
