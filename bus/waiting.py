"""Messages that wait in a transport, looked at without consuming them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bus.envelope import Envelope
from bus.errors import ConfigurationError, EncodingError
from bus.headers import TYPE
from bus.messages import UndecodableMessage, wire_name
from bus.stamps import (
    ErrorDetailsStamp,
    MessageIdStamp,
    OriginStamp,
    PeekedStamp,
    RedeliveryStamp,
    SentToFailureTransportStamp,
    TransportMessageIdStamp,
)
from bus.transports.transport import Transport

_PAGE = 100


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """A message in a transport.

    Attributes:
        id: the message id; where the message brought none, one that is derived from the transport's own.
        transport_name: where it stands.
        transport_id: the transport's own id of this copy.
        state: ready, delayed, in_flight or parked.
        type_name: its name on the wire; for bytes that cannot be decoded the name that their headers claim.
        body: the bytes as they came.
        headers: the headers as they came.
        envelope: the message, or an UndecodableMessage, with its stamps.
    """

    id: str
    transport_name: str
    transport_id: str | int
    state: str
    type_name: str
    body: bytes
    headers: Mapping[str, str]
    envelope: Envelope

    @property
    def undecodable_reason(self) -> str | None:
        """Why the bytes cannot be decoded; None for a message."""
        message = self.envelope.message
        return message.reason if isinstance(message, UndecodableMessage) else None

    @property
    def errors(self) -> tuple[ErrorDetailsStamp, ...]:
        """The errors of its attempts that were kept, the oldest first."""
        return self.envelope.all(ErrorDetailsStamp)

    @property
    def came_from(self) -> str | None:
        """The transport that gave it up; None for a message that was not given up."""
        stamp = self.envelope.last(SentToFailureTransportStamp)
        return stamp.original_receiver_name if stamp is not None else None

    @property
    def origin(self) -> str | None:
        """The queue, topic or stream of the transport that gave it up."""
        stamp = self.envelope.last(OriginStamp)
        return stamp.origin if stamp is not None else None

    @property
    def redelivered_at(self) -> datetime | None:
        """When it was last put back or given up, where that was noted."""
        stamp = self.envelope.last(RedeliveryStamp)
        return stamp.redelivered_at if stamp is not None else None


def waiting(transport: Transport) -> Iterator[WaitingMessage]:
    """Yield the messages of a transport in the order of its own ids, without claiming them.

    They are read page by page; whatever a message holds, looking at it does not raise.

    Raises:
        ConfigurationError: the transport cannot list its messages.
    """
    after: str | int | None = None
    while True:
        page = transport.peek(_PAGE, after)
        if page is None:
            raise ConfigurationError(f'The transport "{transport.name}" cannot list its messages.')
        messages = [_waiting(transport.name, envelope) for envelope in page]
        yield from messages
        if len(messages) < _PAGE:
            return
        after = messages[-1].transport_id


def find(transport: Transport, message_id: str) -> Sequence[WaitingMessage]:
    """Return the messages of this id: several where one was sent there several times."""
    return [message for message in waiting(transport) if message.id == message_id]


def _waiting(transport_name: str, envelope: Envelope) -> WaitingMessage:
    identity, peeked = envelope.last(MessageIdStamp), envelope.last(PeekedStamp)
    transport_id = envelope.last(TransportMessageIdStamp)
    if identity is None or peeked is None or transport_id is None:
        raise ValueError("Only a message that was looked at, and bears its PeekedStamp, can be described.")
    return WaitingMessage(
        identity.id,
        transport_name,
        transport_id.id,
        peeked.state,
        type_name_of(envelope),
        peeked.body,
        peeked.headers,
        envelope,
    )


def type_name_of(envelope: Envelope) -> str:
    """Return the wire name of a message, or what the headers of undecodable bytes claim to be it."""
    message = envelope.message
    if isinstance(message, UndecodableMessage):
        return str(message.headers.get(TYPE, "")) or "(no type)"
    try:
        return wire_name(type(message))
    except EncodingError:
        return type(message).__qualname__
