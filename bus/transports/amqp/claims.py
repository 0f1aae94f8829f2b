"""A claim on a message of RabbitMQ: one delivery on one channel."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from bus.amqp_stamps import AmqpReceivedStamp
from bus.transports.base import Claim

if TYPE_CHECKING:
    from bus.transports.amqp.channel import Channel
    from bus.transports.amqp.reader import QueueReader, Received


class AmqpClaim(Claim):
    """A claim that lasts as long as the channel on which its message was delivered.

    Its transport id is the message id that the publisher gave, which every delivery of a message has.

    Attributes:
        reader: what reads its queue.
        channel: the channel that it was delivered on.
        received: the message, as the client library gave it.
    """

    __slots__ = ("channel", "reader", "received")

    def __init__(self, reader: QueueReader, channel: Channel, received: Received, deliveries: int) -> None:
        method, properties, _ = received
        queue = reader.queue
        stamp = AmqpReceivedStamp(
            queue.name,
            method.exchange,
            method.routing_key,
            MappingProxyType(vars(properties)),
            bool(method.redelivered),
        )
        super().__init__(self._id_of(method, properties), deliveries, queue.origin, stamp, partition=queue.partition)
        self.reader = reader
        self.channel = channel
        self.received = received

    @staticmethod
    def _id_of(method: Any, properties: Any) -> str | int:
        return str(properties.message_id)

    @property
    def tag(self) -> int:
        """The number of its delivery."""
        return int(self.received[0].delivery_tag)


class NamelessClaim(AmqpClaim):
    """A claim on a message without a message id: nothing tells its deliveries from those of another message."""

    has_stable_id: ClassVar[bool] = False

    __slots__ = ()

    @staticmethod
    def _id_of(method: Any, properties: Any) -> str | int:
        return int(method.delivery_tag)


def claim_on(reader: QueueReader, channel: Channel, received: Received, deliveries: int) -> AmqpClaim:
    """Return the claim on a received message."""
    kind = NamelessClaim if received[1].message_id is None else AmqpClaim
    return kind(reader, channel, received, deliveries)
