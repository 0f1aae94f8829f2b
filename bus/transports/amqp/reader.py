"""Reads one queue, over a channel of its own. Runs on the connection's thread, except where it says otherwise."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from bus import headers
from bus.transports.amqp.acknowledgements import Acknowledgements
from bus.transports.amqp.channel import Channel
from bus.transports.amqp.claims import AmqpClaim, claim_on
from bus.transports.amqp.connection import BrokerConnection
from bus.transports.amqp.properties import headers_of, number_in
from bus.transports.amqp.topology import ReadableQueue
from bus.transports.base import Delivery

# Method, properties and body, as the client library gives them: what is not handed out needs nothing else.
Received: TypeAlias = tuple[Any, Any, bytes]

_tags: Final = itertools.count(1)


class Reads(Protocol):
    """What a reader works for."""

    def reader_ready(self) -> None:
        """It consumes."""

    def reader_lost(self, reader: QueueReader, code: int, text: str) -> None:
        """Its channel is gone, and with it every claim."""

    def arrived(self) -> None:
        """There is something in its buffer."""

    def to_be_replaced(self, reader: QueueReader, received: Received) -> None:
        """A message may not be handed out as it is: it is suspected, or has not waited long enough."""

    def is_fresh(self, *, fresh: bool) -> None:
        """A message came that was never delivered before, or one that was and not settled."""


class QueueReader:
    """One queue's channel, what was delivered on it and is not handed out, and the claims on what is.

    Attributes:
        buffer: replaced, never emptied, when the channel is lost; another thread takes from it.
        claims: by delivery tag; changed by any thread.
        prefetch: how many messages RabbitMQ may send in advance; 0 while it is paused.
    """

    def __init__(self, queue: ReadableQueue, connection: BrokerConnection, owner: Reads) -> None:
        self.queue = queue
        self._connection = connection
        self._owner = owner
        self._tag = ""
        self.prefetch = 0
        self.consuming = False
        self.channel: Channel | None = None
        self._begin(None)

    def _begin(self, channel: Channel | None) -> None:
        self.channel = channel
        self.buffer: deque[Received] = deque()
        self.claims: dict[int, AmqpClaim] = {}
        self._acknowledgements = Acknowledgements()
        self.consuming = False

    def call(self, work: Callable[[], None]) -> None:
        """Run ``work`` on the connection's thread. From any thread."""
        self._connection.call(work)

    # --- opening, pausing and closing ---

    def open(self, prefetch: int) -> None:
        """Consume, on a new channel unless there is one."""
        if self.channel is None:
            self.prefetch = prefetch
            self._begin(self._connection.open_channel(self._opened, self._closed))

    def take_over(self, channel: Channel, received: Received, deliveries: int) -> Delivery:
        """Return a message that was taken on a channel, which is this reader's from now on, with the claim on it."""
        self._begin(channel)
        return self.hand_out(received, deliveries)

    def _opened(self, channel: Channel) -> None:
        channel.on_cancelled(lambda: self._cancelled(channel))
        self._consume(channel, self._ready)

    def _ready(self) -> None:
        self.consuming = True
        self._owner.reader_ready()

    def _consume(self, channel: Channel, done: Callable[[], None]) -> None:
        self._tag = f"bus-{next(_tags)}"
        channel.consume(self.queue.name, self._tag, self.prefetch, self._received, done)

    def set_prefetch(self, prefetch: int) -> None:
        """Have RabbitMQ send so many in advance from now on, beside what it has sent."""
        channel = self.channel
        if channel is None or not self.consuming or prefetch == self.prefetch or self.queue.partition is not None:
            return
        old, was_paused = self._tag, not self.prefetch
        self.prefetch = prefetch
        self._consume(channel, _nothing)
        if not was_paused:
            channel.cancel(old)

    def pause(self, done: Callable[[], None]) -> None:
        """Have nothing more sent; ``done`` when all that was sent is here, and all that was settled is.

        A partition is not paused: its next reader would begin while this one still has messages of it.
        """
        channel = self.channel
        if channel is None or not self.consuming:
            done()
        else:
            if self.prefetch and self.queue.partition is None:
                self.prefetch = 0
                channel.cancel(self._tag)
            channel.round_trip(done)

    def close(self) -> None:
        """Let go of the channel and of everything on it."""
        channel = self.channel
        self.lose()
        if channel is not None:
            channel.close()

    def lose(self) -> None:
        """Take note that everything on the channel is somebody else's."""
        for claim in list(self.claims.values()):
            claim.withdraw()
        self._begin(None)

    def keep_only(self, received: Received) -> Sequence[Received]:
        """Leave this message where it is handed out from, if it is there; return the others."""
        messages = self.buffer
        self.buffer = deque(each for each in messages if each is received)
        return [each for each in messages if each is not received]

    def lose_buffer(self) -> None:
        """Hand nothing more out."""
        self.buffer = deque()

    def _cancelled(self, channel: Channel) -> None:
        if channel is self.channel:
            self.close()
            self._owner.reader_lost(self, 0, f'the queue "{self.queue.name}" was deleted or moved')

    def _closed(self, channel: Channel, code: int, text: str) -> None:
        if channel is self.channel:
            self.lose()
            self._owner.reader_lost(self, code, text)

    # --- messages ---

    def _received(self, _: object, method: Any, properties: Any, body: bytes) -> None:
        fields = properties.headers
        if method.redelivered or fields:
            if fields and headers.DELAY_REST in fields and number_in(properties, headers.DELAY_REST):
                self._owner.to_be_replaced(self, (method, properties, body))
                return
            if method.redelivered and self.queue.partition is None:
                self._owner.is_fresh(fresh=False)
                self._owner.to_be_replaced(self, (method, properties, body))
                return
        self.keep((method, properties, body))

    def keep(self, received: Received) -> None:
        """Put a message where it is handed out from."""
        self._owner.is_fresh(fresh=deliveries_of(received) == 1 and not received[0].redelivered)
        self.buffer.append(received)
        self._owner.arrived()

    def hand_out(self, received: Received, deliveries: int) -> Delivery:
        """Return a message with the claim on it. For the thread that gets messages."""
        channel = self.channel
        claim = claim_on(self, channel or Channel(), received, deliveries)
        self.claims[claim.tag] = claim
        if channel is None or channel is not self.channel:
            claim.withdraw()  # lost in this very moment
        return Delivery(received[2], headers_of(received[1]), claim)

    # --- settling ---

    def holds(self, claim: AmqpClaim) -> bool:
        """Tell whether a claim is still ours. From any thread."""
        return claim.channel is self.channel and self.claims.get(claim.tag) is claim

    def ack(self, channel: Channel, tags: Sequence[int]) -> None:
        """Acknowledge deliveries, with as few words as possible."""
        if channel is not self.channel or not channel.is_open:
            return
        up_to, others = self._acknowledgements.settled(tags)
        if up_to:
            channel.ack(up_to, multiple=True)
        for tag in others:
            channel.ack(tag)

    def reject(self, channel: Channel, tags: Sequence[int]) -> None:
        """Give messages up."""
        self._settle_each(channel, tags, channel.reject)

    def give_back(self, channel: Channel, tags: Sequence[int]) -> None:
        """Have messages delivered again, as redelivered ones."""
        self._settle_each(channel, tags, channel.give_back)

    def _settle_each(self, channel: Channel, tags: Sequence[int], settle: Callable[[int], None]) -> None:
        if channel is not self.channel or not channel.is_open:
            return
        for tag in tags:
            settle(tag)
        self._acknowledgements.settled(tags)


def deliveries_of(received: Received) -> int:
    """Return how often a message was delivered without being settled, this time included, as its headers say."""
    fields = received[1].headers
    if fields and headers.DELIVERIES in fields:
        return max(1, number_in(received[1], headers.DELIVERIES))
    return 1


def _nothing() -> None:
    """Go on."""
