"""Looks at waiting messages, and takes single ones.

RabbitMQ shows a message only by delivering it: what is looked at is got and, when the channel is closed, given back to
its place. It counts as delivered before then, so whoever consumes it next handles it alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bus.errors import ConnectionLostError, TransportError
from bus.transports.amqp.channel import Channel
from bus.transports.amqp.claims import AmqpClaim
from bus.transports.amqp.connection import BrokerConnection, Server
from bus.transports.amqp.properties import headers_of, identity_of
from bus.transports.amqp.reader import QueueReader, Received, deliveries_of
from bus.transports.amqp.session import Answer, Session
from bus.transports.amqp.topology import PARKED_SUFFIX, ReadableQueue, Topology
from bus.transports.base import Counts, Delivery, Peeked

READY: Final = "ready"
DELAYED: Final = "delayed"
PARKED: Final = "parked"

_NOT_FOUND: Final = 404
# From RabbitMQ 4.0 on a quorum queue drops what was delivered 20 times; looking counts as a delivery.
_DELIVERY_COUNT: Final = "x-delivery-count"
_MOST_LOOKS: Final = 15


@dataclass(frozen=True, slots=True)
class Place:
    """A queue in which messages of a transport stand, in this state, and the queue that they belong to."""

    queue: str
    state: str
    belongs_to: ReadableQueue


class Looking:
    """Sees the messages of a transport over a connection of its own. One thread at a time."""

    def __init__(self, server: Server, topology: Topology, name: str) -> None:
        self._session = Session(server, "look")
        self._topology = topology
        self._name = name
        self._taken: list[_TakenMessage] = []

    def forget(self) -> None:
        """Begin anew in a forked child."""
        self._session.forget()
        self._lose_what_was_taken()

    def close(self, timeout: float) -> None:
        """Let go of what was taken and not settled; it goes back to its place."""
        self._session.close(timeout)
        self._lose_what_was_taken()

    def _lose_what_was_taken(self) -> None:
        for reader in self._taken:
            reader.lose()
        self._taken.clear()

    # --- setting up ---

    def set_up(self) -> None:
        """Declare everything. Raises Undeclarable."""
        self._session.declare(self._name, self._topology.declarations())

    def missing_queues(self) -> Iterator[str]:
        """Yield the queues that do not exist."""
        for queue in self._topology.readable:
            if self._session.count(queue) is None:
                yield queue

    # --- looking ---

    def counts(self, delay_queues: Iterable[str], *, here: int, held: int | None) -> Counts:
        """Count messages; ``here`` wait in this process, ``held`` are being handled."""
        ready = sum(self._session.count(queue) or 0 for queue in self._topology.readable)
        delayed = sum(self._session.count(queue) or 0 for queue in delay_queues)
        parked = sum(self._session.count(queue + PARKED_SUFFIX) or 0 for queue in self._topology.queue_names)
        return Counts(ready + here, delayed, held, parked)

    def peek(
        self, limit: int, after: str | int | None, delay_queues: Mapping[str, ReadableQueue], seen: Sequence[Peeked]
    ) -> Sequence[Peeked]:
        """Return messages, those of this process first, from behind ``after``."""
        wanted = _Page(limit, after)
        wanted.add(seen)
        for place in self._places(delay_queues):
            if wanted.full:
                break
            self._look_into(place, wanted)
        return wanted.messages

    def take(self, transport_id: str, delay_queues: Mapping[str, ReadableQueue]) -> Delivery | None:
        """Claim a message, whatever its state; None where it is nowhere to be got."""
        self._taken = [each for each in self._taken if each.claims]
        for place in self._places(delay_queues):
            delivery = self._take_from(place, transport_id)
            if delivery is not None:
                return delivery
        return None

    def _places(self, delay_queues: Mapping[str, ReadableQueue]) -> Iterator[Place]:
        for readable in self._topology.readable.values():
            yield Place(readable.name, READY, readable)
        for origin in self._topology.queue_names:
            yield Place(origin + PARKED_SUFFIX, PARKED, self._topology.readable[origin])
        for name, readable in delay_queues.items():
            yield Place(name, DELAYED, readable)

    def _look_into(self, place: Place, page: _Page) -> None:
        def question(channel: Channel, answer: Answer[None]) -> None:
            def got(_: object, method: Any, properties: Any, body: bytes) -> None:
                if int((properties.headers or {}).get(_DELIVERY_COUNT, 0)) >= _MOST_LOOKS:
                    answer.fail(
                        ConnectionLostError(
                            f'A message of queue "{place.queue}" was looked at or given back {_MOST_LOOKS} times, and '
                            "RabbitMQ may drop it soon; consume it"
                        )
                    )
                    channel.close()
                    return
                page.add([Peeked(identity_of(properties, body), body, headers_of(properties), place.state)])
                if page.full:
                    finish()
                else:
                    channel.get(place.queue, got, finish)

            def finish() -> None:
                answer.give(None)
                channel.close()

            channel.get(place.queue, got, finish)

        self._session.ask(question, _nothing_where_missing)

    def _take_from(self, place: Place, transport_id: str) -> Delivery | None:
        def question(channel: Channel, answer: Answer[Delivery]) -> None:
            others: list[int] = []

            def got(_: object, method: Any, properties: Any, body: bytes) -> None:
                if identity_of(properties, body) != transport_id:
                    others.append(method.delivery_tag)
                    channel.get(place.queue, got, channel_done)
                    return
                for tag in others:
                    channel.give_back(tag)
                received = (method, properties, body)
                reader = _TakenMessage(place.belongs_to, self._session.connection)
                self._taken.append(reader)
                answer.give(reader.take_over(channel, received, deliveries_of(received)))

            def channel_done() -> None:
                answer.fail(_NowhereError("no such message"))
                channel.close()

            channel.get(place.queue, got, channel_done)

        def refused(code: int, text: str, answer: Answer[Delivery]) -> None:
            answer.fail(_NowhereError(text) if code == _NOT_FOUND else ConnectionLostError(f"{code} {text}"))

        try:
            return self._session.ask(question, refused)
        except _NowhereError:
            return None


class _Page:
    """Messages from behind an id, up to a limit."""

    def __init__(self, limit: int, after: str | int | None) -> None:
        self._limit = limit
        self._after = None if after is None else str(after)
        self.messages: list[Peeked] = []

    @property
    def full(self) -> bool:
        return len(self.messages) >= self._limit

    def add(self, messages: Iterable[Peeked]) -> None:
        for each in messages:
            if self._after is not None:
                if str(each.transport_id) == self._after:
                    self._after = None
            elif not self.full:
                self.messages.append(each)


class _TakenMessage(QueueReader):
    """One message on a channel of its own, which is closed when it is settled."""

    def __init__(self, queue: ReadableQueue, connection: BrokerConnection) -> None:
        super().__init__(queue, connection, _ExpectsNothing())

    def holds(self, claim: AmqpClaim) -> bool:
        """Tell whether the claim is still ours. From any thread."""
        return super().holds(claim) and claim.channel.is_open

    def ack(self, channel: Channel, tags: Sequence[int]) -> None:
        """Remove the message."""
        super().ack(channel, tags)
        channel.close()

    def reject(self, channel: Channel, tags: Sequence[int]) -> None:
        """Give the message up."""
        super().reject(channel, tags)
        channel.close()


class _ExpectsNothing:
    """What the reader of a taken message works for: nothing comes on its channel any more."""

    def reader_ready(self) -> None:
        """It never consumes."""

    def reader_lost(self, reader: QueueReader, code: int, text: str) -> None:
        """Nobody reads on."""

    def arrived(self) -> None:
        """Nothing does."""

    def to_be_replaced(self, reader: QueueReader, received: Received) -> None:
        """Nothing is."""

    def is_fresh(self, *, fresh: bool) -> None:
        """Nothing comes."""


class _NowhereError(TransportError):
    """The message is not in this queue."""


def _nothing_where_missing(code: int, text: str, answer: Answer[None]) -> None:
    if code == _NOT_FOUND:
        answer.give(None)
    else:
        answer.fail(ConnectionLostError(f"{code} {text}"))
