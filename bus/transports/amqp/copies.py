"""Puts a copy of a received message into its queue, and then settles the original: the copy is confirmed first.

RabbitMQ cannot change a message that waits. A suspect's copy bears its count, the copy of one that has waited for half
of its delay goes to wait for the rest, and what is given back unbegun comes back as a message that was never delivered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from bus import headers
from bus.errors import SendRefused, TransportError
from bus.transports.amqp.channel import Channel
from bus.transports.amqp.connection import BrokerConnection
from bus.transports.amqp.delays import next_hop, retry_queue
from bus.transports.amqp.properties import copied, number_in
from bus.transports.amqp.publisher import Batch, Publication, Publisher
from bus.transports.amqp.reader import QueueReader, Received, deliveries_of
from bus.transports.base import Sent

logger = logging.getLogger(__name__)


class Copies:
    """Copies of the messages of one consumer. For the thread of its connection.

    Attributes:
        under_way: how many are not confirmed yet.
    """

    def __init__(self, connection: BrokerConnection, publisher: Publisher, name: str) -> None:
        self._connection = connection
        self._publisher = publisher
        self._name = name
        self.under_way = 0

    def forget(self) -> None:
        """Expect nothing, in a forked child."""
        self.under_way = 0

    def replace(self, reader: QueueReader, received: Received) -> None:
        """Have a suspect, or a message that has to wait on, come back as such; where that fails it is kept as it is."""
        _, properties, body = received
        rest = number_in(properties, headers.DELAY_REST)
        try:
            if rest:
                publication = _waiting_on(reader.queue.name, received, rest)
            else:
                counted = {headers.DELIVERIES: str(deliveries_of(received) + 1)}
                publication = Publication("", reader.queue.name, copied(properties, counted), body)
        except SendRefused as error:
            self._keep(reader, received, error)
            return
        self._send(reader, [received], [publication], partial(self._replaced, reader, reader.channel, received))

    def give_back(
        self, reader: QueueReader, messages: Sequence[Received], done: Callable[[], None] | None = None
    ) -> None:
        """Have messages come back as they came, and not as redelivered ones; ``done`` when they are there."""
        publications, originals, uncopied = [], [], []
        for received in messages:
            count = deliveries_of(received)
            own = {headers.DELIVERIES: str(count)} if count > 1 else {}
            try:
                publications.append(Publication("", reader.queue.name, copied(received[1], own), received[2]))
                originals.append(received)
            except SendRefused:
                uncopied.append(received[0].delivery_tag)
        channel = reader.channel
        if uncopied and channel is not None:
            reader.give_back(channel, uncopied)
        if not publications:
            if done is not None:
                done()
            return
        self._send(reader, originals, publications, partial(self._given_back, reader, channel, originals, done))

    def _send(
        self,
        reader: QueueReader,
        originals: Sequence[Received],
        publications: Sequence[Publication],
        then: Callable[[Sequence[object]], None],
    ) -> None:
        self.under_way += len(originals)

        def concluded(batch: Batch) -> None:
            self._connection.call(partial(finished, batch.results))

        def finished(results: Sequence[object]) -> None:
            self.under_way -= len(originals)
            then(results)

        try:
            self._publisher.publish(Batch(publications, concluded))
        except TransportError as error:
            finished([error] * len(originals))

    def _replaced(
        self, reader: QueueReader, channel: Channel | None, received: Received, results: Sequence[object]
    ) -> None:
        (result,) = results
        if channel is None or channel is not reader.channel:
            return  # the original is delivered again
        if isinstance(result, Sent):
            reader.ack(channel, [received[0].delivery_tag])
        else:
            self._keep(reader, received, result)

    def _given_back(
        self,
        reader: QueueReader,
        channel: Channel | None,
        originals: Sequence[Received],
        done: Callable[[], None] | None,
        results: Sequence[object],
    ) -> None:
        if channel is not None:
            tags = [(received[0].delivery_tag, result) for received, result in zip(originals, results, strict=True)]
            reader.ack(channel, [tag for tag, result in tags if isinstance(result, Sent)])
            reader.give_back(channel, [tag for tag, result in tags if not isinstance(result, Sent)])
        if done is not None:
            done()

    def _keep(self, reader: QueueReader, received: Received, error: object) -> None:
        logger.warning(
            'A message in queue "%s" of "%s" cannot be put behind with its count, and is handled as it is: %s',
            reader.queue.name,
            self._name,
            error,
        )
        method, properties, body = received
        properties.headers = {**(properties.headers or {}), headers.DELIVERIES: str(deliveries_of(received) + 1)}
        properties.headers.pop(headers.DELAY_REST, None)
        reader.keep((method, properties, body))


def _waiting_on(queue: str, received: Received, rest: int) -> Publication:
    milliseconds, left = next_hop(rest)
    place = retry_queue(queue, milliseconds)
    own = {headers.DELAY_REST: str(left)} if left else {}
    return Publication(place.exchange, place.name, copied(received[1], own), received[2], place)
