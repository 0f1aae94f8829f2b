"""The RabbitMQ driver: what is sent where, who may have which message, and what a settlement takes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bus import headers
from bus.amqp_stamps import AmqpStamp
from bus.clock import Clock
from bus.errors import ConfigurationError, SendRefused, TransportError, did_you_mean, quoted
from bus.forking import forget_in_children
from bus.transports.amqp.claims import AmqpClaim
from bus.transports.amqp.connection import Properties, Server
from bus.transports.amqp.consumer import Consumer, claims_of
from bus.transports.amqp.crash_counts import CrashCounts
from bus.transports.amqp.delays import LONGEST_HOP, USUAL_WAITS, DelayQueue, delay_queue, first_hop, retry_queue
from bus.transports.amqp.looking import Looking
from bus.transports.amqp.options import AmqpOptions, read_options
from bus.transports.amqp.properties import headers_of, identity_of, written, written_again
from bus.transports.amqp.publisher import Publication, Publisher
from bus.transports.amqp.reader import QueueReader, Received, deliveries_of
from bus.transports.amqp.topology import PARKED_SUFFIX, ReadableQueue
from bus.transports.base import (
    Ack,
    Claim,
    Counts,
    Delivery,
    Discard,
    Outgoing,
    Park,
    Peeked,
    Requeue,
    Sent,
    Settlement,
)
from bus.transports.dsn import Dsn

if TYPE_CHECKING:
    from bus.transports.registry import DriverContext

_CLOSING: Final = 2.0  # seconds that giving back, and closing a connection, get each


def create(name: str, dsn: Dsn, options: Mapping[str, object], context: DriverContext) -> AmqpDriver:
    """Build the driver of an ``amqp://`` or ``amqps://`` transport."""
    checked = read_options(name, dsn, options)
    return AmqpDriver(name, Server.of(name, dsn, checked), checked, context.clock, CrashCounts(context.store))


class AmqpDriver:
    """Moves messages through one exchange and its queues. Thread-safe; ``get`` belongs to one thread.

    Publishing and consuming have a connection and a thread each, begun when first used, and again after ``close``.
    """

    def __init__(
        self, name: str, server: Server, options: AmqpOptions, clock: Clock, crash_counts: CrashCounts
    ) -> None:
        self._name = name
        self._options = options
        self._clock = clock
        self._topology = options.topology
        self._publisher = Publisher(server, self._topology, auto_setup=options.auto_setup, name=name)
        self._consumer = Consumer(server, self._topology, self._publisher, auto_setup=options.auto_setup, name=name)
        self._crash_counts = crash_counts
        self._looking = Looking(server, self._topology, name)
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self._getting = threading.Lock()  # around getting and closing, so that closing sees every claim
        self._asking = threading.Lock()
        self._paused: frozenset[int] = frozenset()
        self._turn = 0
        self._carried_out: set[AmqpClaim] = set()  # of batches that are settled again because others in them failed
        self._suspect: Claim | None = None

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        self._publisher.forget()
        self._consumer.forget()
        self._looking.forget()
        self._begin()

    # --- sending ---

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Publish all messages and wait once for the confirmation of all."""
        if not batch:
            return ()
        results: list[Sent | TransportError | None] = [None] * len(batch)
        publications: list[Publication] = []
        positions: list[int] = []
        for position, outgoing in enumerate(batch):
            try:
                publications.append(self._publication(outgoing))
                positions.append(position)
            except SendRefused as error:
                results[position] = error
        if publications:
            for position, result in zip(positions, self._publisher.send(publications), strict=True):
                results[position] = result
        return [each for each in results if each is not None]

    def _publication(self, outgoing: Outgoing) -> Publication:
        properties = written(outgoing, self._clock.now())
        if outgoing.origin is not None:
            queue = self._topology.queue_of(outgoing.origin, outgoing.partition_key)
            return self._to_queue(queue, outgoing, properties)
        stamp = outgoing.native
        wanted = stamp.routing_key if isinstance(stamp, AmqpStamp) else None
        exchange, key = self._topology.destination(wanted, outgoing.partition_key)
        if not exchange:
            return self._to_queue(key, outgoing, properties)
        if outgoing.delay_ms <= 0:
            return Publication(exchange, key, properties, outgoing.body)
        milliseconds = self._hop(outgoing, properties)
        place = delay_queue(exchange, milliseconds)
        return Publication(place.exchange, key, properties, outgoing.body, place)

    def _to_queue(self, queue: str, outgoing: Outgoing, properties: Properties) -> Publication:
        if outgoing.delay_ms <= 0:
            return Publication("", queue, properties, outgoing.body)
        place: DelayQueue = retry_queue(queue, self._hop(outgoing, properties))
        return Publication(place.exchange, place.name, properties, outgoing.body, place)

    def _hop(self, outgoing: Outgoing, properties: Properties) -> int:
        """Return for how long a message waits first, and note in its headers what is left."""
        if not self._options.delay_hops:
            if outgoing.delay_ms > LONGEST_HOP:
                raise SendRefused(
                    f'A message to "{self._name}" is delayed by {outgoing.delay_ms} ms; without "delay_hops" '
                    f"RabbitMQ can wait for {LONGEST_HOP} ms"
                )
            return outgoing.delay_ms
        milliseconds, rest = first_hop(outgoing.delay_ms)
        if rest:
            properties.headers[headers.DELAY_REST] = str(rest)
        return milliseconds

    # --- receiving ---

    def get(self, limit: int) -> Sequence[Delivery]:
        """Return what RabbitMQ has sent, a suspect alone. Looks for more only where nothing is held and nothing came.

        Raises:
            ConfigurationError: a queue is there with other arguments, or this transport has none.
        """
        return self.get_from(self._topology.readable, limit)

    def get_from(self, queues: Iterable[str], limit: int) -> Sequence[Delivery]:
        """As ``get``, from these queues only. Raises ConfigurationError where one of them is not of this transport."""
        wanted = self._readable(queues)
        with self._getting:
            self._consumer.choose(wanted)
            self._consumer.ensure_consuming()
            if limit <= 0:
                return ()
            held = self._held()
            self._consumer.aim_at(limit + held)
            self._consumer.resume()
            deliveries = self._take(limit)
            if not deliveries and not held and not self._consumer.found_empty:
                self._consumer.look()
                deliveries = self._take(limit)
            return deliveries

    def _readable(self, queues: Iterable[str]) -> Sequence[str]:
        readable = self._topology.readable
        if not readable:
            raise ConfigurationError(f'Transport "{self._name}" has no queues: it only publishes')
        if queues is readable:
            return tuple(readable)
        chosen: list[str] = []
        for name in queues:
            found = [each.name for each in readable.values() if name in (each.name, each.origin)]
            if not found:
                valid = self._topology.queue_names
                raise ConfigurationError(
                    f'Transport "{self._name}" has no queue "{name}"; '
                    f"its queues are: {quoted(valid)}{did_you_mean(name, valid)}"
                )
            chosen += found
        return tuple(dict.fromkeys(chosen))

    def _held(self) -> int:
        return sum(len(each.claims) for each in self._readers())

    def _readers(self) -> Sequence[QueueReader]:
        return list(self._consumer.readers.values())

    def _take(self, limit: int) -> list[Delivery]:
        """Take what has come, each time beginning with another queue."""
        readers = self._readers()
        self._turn += 1
        deliveries: list[Delivery] = []
        for position in range(len(readers)):
            reader = readers[(self._turn + position) % len(readers)]
            if reader.queue.partition is not None and reader.queue.partition in self._paused:
                continue
            buffer = reader.buffer
            while buffer and len(deliveries) < limit:
                if _may_have_killed(reader, buffer[0]):
                    return deliveries or self._take_alone(reader, buffer)
                deliveries.append(reader.hand_out(buffer.popleft(), 1))
        return deliveries

    def _take_alone(self, reader: QueueReader, buffer: deque[Received]) -> list[Delivery]:
        """Take a suspect, once nothing else waits here: what it kills shall not take others along."""
        suspect = buffer[0]
        if not self._consumer.isolate(suspect):
            self._consumer.resume()
            return []
        if not reader.buffer or reader.buffer[0] is not suspect:
            return []
        partitioned = reader.queue.partition is not None
        count = self._crash_counts.count(reader, suspect) if partitioned else deliveries_of(suspect)
        reader.buffer.popleft()
        delivery = reader.hand_out(suspect, count)
        self._suspect = delivery.claim
        return [delivery]

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when messages have come, from the connection's thread."""
        self._consumer.on_arrival(wake)
        self._consumer.start()

    # --- settling ---

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        """Acknowledge at once; what goes back or is parked is first published, confirmed, and then acknowledged."""
        lost: list[Claim] = []
        acks: list[AmqpClaim] = []
        rejects: list[AmqpClaim] = []
        copies: list[tuple[AmqpClaim, Publication]] = []
        refused: list[TransportError] = []
        for settlement in batch:
            claim = settlement.claim
            if not isinstance(claim, AmqpClaim) or not self._is_ours(claim):
                if claim not in self._carried_out:
                    claim.withdraw()
                    lost.append(claim)
                continue
            match settlement:
                case Ack():
                    acks.append(claim)
                case Discard():
                    rejects.append(claim)
                case Requeue(_, outgoing) | Park(_, outgoing):
                    try:
                        copies.append((claim, self._copy(claim, outgoing, parked=isinstance(settlement, Park))))
                    except SendRefused as error:
                        refused.append(error)
        self._consumer.settle(acks, rejects)
        self._crash_counts.forget([*acks, *rejects])
        failed = refused + (self._settle_by_copies(copies, acks) if copies else [])
        self._see_to_it_before_a_suspect()
        if failed:
            self._carried_out.update(acks, rejects)
            raise failed[0]
        self._carried_out.difference_update(each.claim for each in batch if isinstance(each.claim, AmqpClaim))
        return lost

    def _is_ours(self, claim: AmqpClaim) -> bool:
        return claim.reader.holds(claim)

    def _copy(self, claim: AmqpClaim, outgoing: Outgoing, *, parked: bool) -> Publication:
        properties = written_again(outgoing, claim.received[1])
        if parked:
            place = self._topology.parked(claim.origin)
            return Publication("", place.name, properties, outgoing.body, place)
        return self._to_queue(claim.reader.queue.name, outgoing, properties)

    def _settle_by_copies(
        self, copies: Sequence[tuple[AmqpClaim, Publication]], acks: list[AmqpClaim]
    ) -> list[TransportError]:
        try:
            results = self._publisher.send([publication for _, publication in copies])
        except TransportError as error:
            return [error]
        stored = [claim for (claim, _), result in zip(copies, results, strict=True) if isinstance(result, Sent)]
        self._consumer.settle(stored)
        self._crash_counts.forget(stored)
        acks += stored
        return [result for result in results if isinstance(result, TransportError)]

    def _see_to_it_before_a_suspect(self) -> None:
        """Wait until RabbitMQ has what was settled, where the next message may kill this process."""
        suspect = self._suspect
        if suspect is not None:
            if suspect.begun or suspect.withdrawn:
                self._suspect = None
            else:
                self._consumer.round_trip()

    def close(self) -> None:
        """Give back what was not begun, let go of every claim and of both connections."""
        with self._getting:
            held = [claim for claim in claims_of(self._readers()) if claim.partition is not None]
            self._consumer.stop(_CLOSING)
            self._crash_counts.give_back([claim for claim in held if not claim.begun])
            self._publisher.close(_CLOSING)
            self._carried_out.clear()
        with self._asking:
            self._looking.close(_CLOSING)

    # --- partitions ---

    @property
    def ordered_window(self) -> int | None:
        """How many messages may wait behind failing ones in a partition; None: failing ones hold back none."""
        return self._options.ordered_window if self._options.ordered else None

    def pause(self, partitions: Collection[int]) -> None:
        """Hand out nothing of these partitions from now on, and of the others again."""
        self._paused = frozenset(partitions)

    # --- setting up and looking ---

    def set_up(self) -> None:
        """Declare exchanges, queues and bindings. Raises TransportError where something else is there."""
        with self._asking:
            self._looking.set_up()

    def check(self) -> Sequence[str]:
        """Return the queues that do not exist."""
        with self._asking:
            return [f'queue "{queue}" does not exist' for queue in self._looking.missing_queues()]

    def counts(self) -> Counts:
        """Count messages. What other processes are handling cannot be seen."""
        held = self._held() if self._readers() else None
        here = sum(len(each.buffer) for each in self._readers())
        with self._asking:
            return self._looking.counts(self._delay_queues(), here=here, held=held)

    def peek(self, limit: int, after: str | int | None = None) -> Sequence[Peeked]:
        """Return messages of this process and of the queues; they count as delivered before then."""
        seen: list[Peeked] = []
        for reader in self._readers():
            claims = [each.received for each in list(reader.claims.values())]
            seen += [_peeked(each, "in_flight") for each in claims]
            seen += [_peeked(each, "ready") for each in list(reader.buffer)]
        with self._asking:
            return self._looking.peek(limit, after, self._delay_queues(), seen)

    def take(self, transport_id: str | int) -> Delivery | None:
        """Claim this message, a parked or delayed one too; not one that this process has fetched already."""
        with self._asking:
            return self._looking.take(str(transport_id), self._delay_queues())

    def _delay_queues(self) -> Mapping[str, ReadableQueue]:
        """Return the queues in which messages may wait: the usual ones, and those that this process has used."""
        readable = self._topology.readable
        queues = {retry_queue(each, ms).name: readable[each] for each in readable for ms in USUAL_WAITS}
        first = next(iter(readable.values()), None)
        for name in self._publisher.declared:
            target, _, _ = name.rpartition(".retry.")
            if first is not None and not name.endswith(PARKED_SUFFIX):
                queues.setdefault(name, readable.get(target, first))
        return queues


def _may_have_killed(reader: QueueReader, received: Received) -> bool:
    """Tell whether a message was delivered before and not settled, and is to be handled alone."""
    if reader.queue.partition is not None:
        return bool(received[0].redelivered)
    return deliveries_of(received) > 1


def _peeked(received: Received, state: str) -> Peeked:
    return Peeked(identity_of(received[1], received[2]), received[2], headers_of(received[1]), state)
