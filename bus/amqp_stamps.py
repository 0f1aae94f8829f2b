"""Stamps of RabbitMQ: how a message is sent there, and how it came from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from bus.errors import EncodingError
from bus.stamps import NonSendableStamp


@dataclass(frozen=True, slots=True)
class AmqpStamp(NonSendableStamp):
    """How a message is sent to RabbitMQ: its routing key, and further AMQP properties.

    ``attributes`` are named as in AMQP: content_type, content_encoding, priority, correlation_id, reply_to, expiration,
    message_id, timestamp, type, user_id, app_id, and ``headers``, a map. Headers of the bus win over these.
    """

    routing_key: str | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


def as_text(stamp: AmqpStamp) -> str:
    """Return an AmqpStamp as text for an outbox. Raises EncodingError where an attribute has no JSON form."""
    try:
        return json.dumps([stamp.routing_key, dict(stamp.attributes)])
    except (TypeError, ValueError) as error:
        raise EncodingError(f"An AmqpStamp cannot be kept in an outbox: {error}.") from error


def from_text(text: str) -> AmqpStamp:
    """Return the AmqpStamp that ``as_text`` wrote."""
    routing_key, attributes = json.loads(text)
    return AmqpStamp(routing_key, attributes)


@dataclass(frozen=True, slots=True)
class AmqpReceivedStamp(NonSendableStamp):
    """Where the message stood in RabbitMQ, and the properties that it came with."""

    queue: str
    exchange: str
    routing_key: str
    properties: Mapping[str, object] = field(default_factory=dict)
    redelivered: bool = False
