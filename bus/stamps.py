"""Stamps: what is known about a message besides its content.

A stamp is a frozen, slotted dataclass. Those that a worker makes for every message are frozen msgspec Structs, which
look the same and are made ten times as fast; the message id, which is made late, is neither. Those that Symfony has
bear Symfony's names, with its fields in snake_case, and travel in Symfony's headers; ours travel in plain ``X-Bus-``
headers; a NonSendableStamp never leaves the process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from bus.errors import ConfigurationError
from bus.identity import uuid7

if TYPE_CHECKING:
    from bus.transports.base import Claim

_making_an_id = threading.Lock()
# Held across a fork, so that no other thread can hold it then and leave it locked in the child for ever.
os.register_at_fork(
    before=_making_an_id.acquire, after_in_parent=_making_an_id.release, after_in_child=_making_an_id.release
)


class Stamp:
    """Base of every stamp."""

    __slots__ = ()


class NonSendableStamp(Stamp):
    """Base of the stamps that stay in this process."""

    __slots__ = ()


S = TypeVar("S", bound=type)


def stamp(name: str) -> Callable[[S], S]:
    """Give a stamp class of your own the name under which it travels (``X-Bus-Stamp-<name>``).

    The class is a dataclass that inherits from Stamp. It is known once its module stands under ``imports``. A name with
    a backslash is a PHP class that the Symfony application has too: the stamp then travels as Symfony writes it.

    Raises:
        ConfigurationError: the name cannot be part of a header's name, or the class is no stamp that is sent.
    """
    if not 1 <= len(name) <= 128 or not name.isascii() or not name.isprintable():
        raise ConfigurationError(
            f"@stamp({name!r}) is no name for a stamp; a name has 1 to 128 printable ASCII characters"
        )

    def mark(cls: S) -> S:
        kind: type = cls  # what the annotation promises is checked
        if not issubclass(kind, Stamp) or issubclass(kind, NonSendableStamp):
            raise ConfigurationError(f'"{cls.__qualname__}" is no stamp that is sent: let it inherit from Stamp')
        cls.__bus_stamp__ = name  # type: ignore[attr-defined]
        return cls

    return mark


# --- Symfony's, sent ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BusNameStamp(Stamp):
    """The bus that the message was dispatched on; a worker hands it to the same one."""

    bus_name: str


@dataclass(frozen=True, slots=True)
class DelayStamp(Stamp):
    """Deliver the message ``delay`` milliseconds after it was sent."""

    delay: int


@dataclass(frozen=True, slots=True)
class RedeliveryStamp(Stamp):
    """The message is delivered again; ``retry_count`` counts the retries so far."""

    retry_count: int
    redelivered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ErrorDetailsStamp(Stamp):
    """The error of a failed attempt. ``flatten_exception`` is Symfony's full form, or None."""

    exception_class: str
    exception_code: int | str
    exception_message: str
    flatten_exception: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class SentToFailureTransportStamp(Stamp):
    """The message was given up by ``original_receiver_name`` and stored in a failure transport."""

    original_receiver_name: str


class TransportMessageIdStamp(Stamp, msgspec.Struct, frozen=True):
    """The id that the transport itself gave to the message."""

    id: str | int


class HandledStamp(Stamp, msgspec.Struct, frozen=True):
    """A handler is done with the message. The result stays in the process; null travels in its place."""

    result: object
    handler_name: str


@dataclass(frozen=True, slots=True)
class SerializerStamp(Stamp):
    """Symfony's serializer context; kept and sent again, without effect here."""

    context: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ValidationStamp(Stamp):
    """Validate the message in these groups: its ``validate(groups=...)`` gets them, in pydantic the context."""

    groups: Sequence[str]


@dataclass(frozen=True, slots=True)
class RouterContextStamp(Stamp):
    """Symfony's URL context of the request that dispatched the message; kept and sent again."""

    base_url: str
    method: str
    host: str
    scheme: str
    http_port: int
    https_port: int
    path_info: str
    query_string: str


# --- ours, sent -----------------------------------------------------------------------------------------------------


class MessageIdStamp(Stamp):
    """The message's identity (a UUIDv7), given once at dispatch and kept by every retry and resend.

    Without an ``id`` it makes one when somebody first reads it: a message that is handled where it is dispatched often
    needs none, and making one costs a tenth of a dispatch. Thread-safe.
    """

    __slots__ = ("_id",)

    def __init__(self, id: str | None = None) -> None:  # noqa: A002 - the field's name on the wire
        self._id = id

    @property
    def id(self) -> str:
        """The id in its text form."""
        if self._id is None:
            with _making_an_id:
                if self._id is None:
                    self._id = uuid7()
        return self._id

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, MessageIdStamp) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"MessageIdStamp(id={self.id!r})"


class CorrelationStamp(Stamp, msgspec.Struct, frozen=True):
    """The id of the message that began this conversation."""

    id: str


class CausationStamp(Stamp, msgspec.Struct, frozen=True):
    """The id of the message whose handler dispatched this one."""

    id: str


@dataclass(frozen=True, slots=True)
class PartitionKeyStamp(Stamp):
    """Messages with one key are handled one after the other, in the order in which they were sent."""

    key: str


@dataclass(frozen=True, slots=True)
class PriorityStamp(Stamp):
    """A higher number is delivered earlier, where the transport has priorities."""

    priority: int


@dataclass(frozen=True, slots=True)
class OriginStamp(Stamp):
    """The queue, topic or stream that a given-up message came from; a retry by hand goes back there."""

    origin: str


@dataclass(frozen=True, slots=True)
class PostponedStamp(Stamp):
    """How often the message was put back without an attempt since the last one."""

    count: int


@dataclass(frozen=True, slots=True)
class UnknownStamps(Stamp):
    """Headers that nobody here knows, foreign stamps among them: kept opaque and sent again as they came."""

    headers: Mapping[str, str]


# --- in this process only -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReceivedStamp(NonSendableStamp):
    """The message came from this transport; it is never sent again by the send middleware."""

    transport_name: str


@dataclass(frozen=True, slots=True)
class ConsumedByWorkerStamp(NonSendableStamp):
    """The message is being handled by a worker."""


@dataclass(frozen=True, slots=True)
class SentStamp(NonSendableStamp):
    """A transport has taken responsibility for the message."""

    transport_name: str


class HeldStamp(NonSendableStamp, msgspec.Struct, frozen=True):
    """The message waits for the running handler: it leaves when that handler succeeded, and not otherwise."""

    transport_name: str


@dataclass(frozen=True, slots=True)
class HandledBySyncTransportStamp(NonSendableStamp):
    """A ``sync://`` transport handles the message here; its name serves a handler's ``from_transport``."""

    transport_name: str


@dataclass(frozen=True, slots=True)
class DispatchAfterCurrentBusStamp(NonSendableStamp):
    """Handle the message when all handlers of the current one are through, and their transactions committed."""


@dataclass(frozen=True, slots=True)
class TransportNamesStamp(NonSendableStamp):
    """Send the message to these transports, whatever the routing says."""

    names: tuple[str, ...]

    def __init__(self, names: str | Sequence[str]) -> None:
        object.__setattr__(self, "names", (names,) if isinstance(names, str) else tuple(names))


@dataclass(frozen=True, slots=True)
class HandlerArgumentsStamp(NonSendableStamp):
    """Arguments by name for those handlers, called in this process, whose parameters have these names.

    A parameter that a stamp or the envelope fills cannot be given so; one that its default or the container fills can.
    """

    additional_arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TransactionStamp(NonSendableStamp):
    """A transaction of the caller's that the message becomes part of: its commit is the promise.

    ``session`` is a SQLAlchemy session or connection on the database of the transport, or of its outbox. A rollback
    leaves no message, a commit exactly one.
    """

    session: object


class ClaimStamp(NonSendableStamp, msgspec.Struct, frozen=True):
    """The claim on a received message, with the bytes as they came: a retry sends these, not the object."""

    claim: Claim
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PeekedStamp(NonSendableStamp):
    """How a message that was looked at without a claim stands in its transport, with the bytes as they came.

    ``state`` is ready, delayed, in_flight or parked.
    """

    state: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RetryDecisionStamp(NonSendableStamp):
    """The attempt failed and shall be repeated after ``delay`` milliseconds."""

    delay: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class FailureDecisionStamp(NonSendableStamp):
    """The message is given up and shall be stored in this failure transport."""

    transport_name: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class ParkDecisionStamp(NonSendableStamp):
    """The message failed again while it was read from its failure transport, and shall stay there."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class PostponeDecisionStamp(NonSendableStamp):
    """Nothing failed, but handlers of the message are in progress elsewhere: it shall come back later."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class RandomIdStamp(NonSendableStamp):
    """The message came without an id; the one that it bears now is not the one of its next delivery."""


class SqlReceivedStamp(NonSendableStamp, msgspec.Struct, frozen=True):
    """Where the message stood in a SQL transport."""

    id: int
    table: str
    queue: str


class KafkaReceivedStamp(NonSendableStamp, msgspec.Struct, frozen=True):
    """Where the message stood in Kafka. ``timestamp`` is in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    timestamp: int


class RedisReceivedStamp(NonSendableStamp, msgspec.Struct, frozen=True):
    """Where the message stood in a Redis stream."""

    stream: str
    group: str
    id: str
