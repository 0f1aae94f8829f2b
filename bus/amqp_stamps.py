"""Stamps of RabbitMQ: how a message is sent there, and how it came from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bus.stamps import NonSendableStamp


@dataclass(frozen=True, slots=True)
class AmqpStamp(NonSendableStamp):
    """How a message is sent to RabbitMQ: its routing key, and further AMQP properties.

    ``attributes`` are named as in AMQP: content_type, content_encoding, priority, correlation_id, reply_to, expiration,
    message_id, timestamp, type, user_id, app_id, and ``headers``, a map. Headers of the bus win over these.
    """

    routing_key: str | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AmqpReceivedStamp(NonSendableStamp):
    """Where the message stood in RabbitMQ, and the properties that it came with."""

    queue: str
    exchange: str
    routing_key: str
    properties: Mapping[str, object] = field(default_factory=dict)
    redelivered: bool = False
