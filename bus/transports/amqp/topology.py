"""What a transport has in RabbitMQ: its exchange, its queues, and how they are bound."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

Arguments: TypeAlias = Mapping[str, object]

PARKED_SUFFIX: Final = ".parked"

_QUEUE_TYPE: Final = "x-queue-type"
_DEAD_LETTER_EXCHANGE: Final = "x-dead-letter-exchange"
_DEAD_LETTER_KEY: Final = "x-dead-letter-routing-key"
_QUORUM: Final = "quorum"
# A message that a quorum queue gives away is kept there until the next queue has it, with these two.
AT_LEAST_ONCE: Final[Arguments] = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


class ExchangeType(StrEnum):
    """How an exchange chooses the queues of a message.

    ``DIRECT``: by the same key. ``TOPIC``: by a pattern of words. ``FANOUT``: all. ``HEADERS``: by the binding's
    arguments.
    """

    DIRECT = "direct"
    TOPIC = "topic"
    FANOUT = "fanout"
    HEADERS = "headers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What brings messages of another exchange into this one: those of this ``key``, or of these arguments."""

    exchange: str
    key: str = ""
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """The exchange that a transport publishes to. The empty name is RabbitMQ's default exchange.

    Attributes:
        default_publish_routing_key: of messages without an AmqpStamp that names one.
        passive: do not declare it; it has to exist.
        bindings: the exchanges whose messages it gets as well.
    """

    name: str = "messages"
    type: str = ExchangeType.FANOUT
    default_publish_routing_key: str | None = None
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    passive: bool = False
    arguments: Arguments = field(default_factory=dict)
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue that a transport declares and consumes.

    Attributes:
        binding_keys: the routing keys, or patterns of them, of the messages that it gets.
        binding_arguments: the headers of the messages that it gets from a headers exchange.
        passive: do not declare it; it has to exist.
    """

    binding_keys: tuple[str, ...] = ("",)
    binding_arguments: Arguments = field(default_factory=dict)
    durable: bool = True
    auto_delete: bool = False
    passive: bool = False
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Where RabbitMQ puts what is rejected: a direct exchange, and a queue bound to it by the first queue's name.

    None: named like the transport's exchange, or its queue, with ``.dead`` behind.
    """

    exchange: str | None = None
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class DeclareExchange:
    """An exchange that has to be there."""

    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    passive: bool = False
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeclareQueue:
    """A queue that has to be there."""

    name: str
    durable: bool = True
    auto_delete: bool = False
    passive: bool = False
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bind:
    """A binding that has to be there, of a queue or, ``to_exchange``, of an exchange."""

    source: str
    destination: str
    key: str = ""
    arguments: Arguments = field(default_factory=dict)
    to_exchange: bool = False


Declaration: TypeAlias = DeclareExchange | DeclareQueue | Bind


@dataclass(frozen=True, slots=True)
class ReadableQueue:
    """A queue that is consumed. ``origin`` is the queue that it is a partition of, or its own name."""

    name: str
    origin: str
    partition: int | None = None


class Topology:
    """The exchanges and queues of one transport, and where its messages go.

    Attributes:
        exchange: what is published to.
        readable: what is consumed, by name.
    """

    def __init__(
        self,
        exchange: Exchange,
        queues: Mapping[str, Queue],
        *,
        queue_type: str | None = None,
        dead_letter: DeadLetter | None = None,
        partitions: int = 0,
    ) -> None:
        self.exchange = exchange
        self._queues = queues
        self._queue_type = queue_type
        self._dead_letter = dead_letter
        self._partitions = partitions
        self.readable = {each.name: each for each in self._readable()}

    def _readable(self) -> Iterator[ReadableQueue]:
        for name in self._queues:
            yield ReadableQueue(name, name)
            for number in range(self._partitions):
                yield ReadableQueue(in_partition(name, number), name, number)

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues as they are configured, without their partitions."""
        return tuple(self._queues)

    # --- where a message goes ---

    def destination(self, routing_key: str | None, partition_key: str | None) -> tuple[str, str]:
        """Return the exchange and the routing key of a message that begins its way."""
        exchange = self.exchange.name
        if routing_key is None:
            routing_key = self.exchange.default_publish_routing_key
        if exchange:
            return self._partitioned(exchange, partition_key), routing_key or ""
        if routing_key is None:
            routing_key = next(iter(self._queues), "")
        return "", self._partitioned(routing_key, partition_key)

    def queue_of(self, origin: str, partition_key: str | None) -> str:
        """Return the queue that a message goes back to: the origin, or its partition."""
        return self._partitioned(origin, partition_key) if origin in self._queues else origin

    def _partitioned(self, name: str, partition_key: str | None) -> str:
        if partition_key is None or not self._partitions:
            return name
        return in_partition(name, zlib.crc32(partition_key.encode(errors="surrogatepass")) % self._partitions)

    # --- what has to be there ---

    def declarations(self) -> Iterator[Declaration]:
        """Yield everything, in an order in which it can be declared."""
        yield from self._exchanges()
        if self._dead_letter is not None:
            dead = self._dead_letter_exchange
            yield DeclareExchange(dead, ExchangeType.DIRECT)
            yield DeclareQueue(self._dead_letter_queue, arguments=self._typed({}))
        for readable in self.readable.values():
            yield from self._queue(readable)

    def declaration_of(self, queue: str) -> DeclareQueue:
        """Return what declares a readable queue."""
        readable = self.readable[queue]
        options = self._queues[readable.origin]
        arguments = self._typed(options.arguments)
        if self._dead_letter is not None:
            arguments = {_DEAD_LETTER_EXCHANGE: self._dead_letter_exchange, _DEAD_LETTER_KEY: queue, **arguments}
            if arguments.get(_QUEUE_TYPE) == _QUORUM:
                arguments = {**AT_LEAST_ONCE, **arguments}
        if readable.partition is not None:
            arguments = {"x-single-active-consumer": True, **arguments}
        return DeclareQueue(queue, options.durable, options.auto_delete, options.passive, arguments)

    def parked(self, origin: str) -> DeclareQueue:
        """Return what declares the queue in which messages of a queue are parked."""
        return DeclareQueue(origin + PARKED_SUFFIX, arguments=self._typed({}))

    def _exchanges(self) -> Iterator[Declaration]:
        options = self.exchange
        if not options.name:
            return
        names = [options.name, *(in_partition(options.name, number) for number in range(self._partitions))]
        for name in names:
            yield DeclareExchange(
                name,
                options.type,
                options.durable,
                options.auto_delete,
                options.internal,
                options.passive,
                options.arguments,
            )
        for binding in options.bindings:
            yield Bind(binding.exchange, options.name, binding.key, binding.arguments, to_exchange=True)

    def _queue(self, readable: ReadableQueue) -> Iterator[Declaration]:
        options = self._queues[readable.origin]
        yield self.declaration_of(readable.name)
        exchange = self.exchange.name
        if exchange:
            if readable.partition is not None:
                exchange = in_partition(exchange, readable.partition)
            for key in options.binding_keys:
                yield Bind(exchange, readable.name, key, options.binding_arguments)
        if self._dead_letter is not None:
            yield Bind(self._dead_letter_exchange, self._dead_letter_queue, readable.name)

    def _typed(self, arguments: Arguments) -> Arguments:
        return arguments if self._queue_type is None else {_QUEUE_TYPE: self._queue_type, **arguments}

    @property
    def _dead_letter_exchange(self) -> str:
        assert self._dead_letter is not None
        return self._dead_letter.exchange or f"{self._own_name}.dead"

    @property
    def _dead_letter_queue(self) -> str:
        assert self._dead_letter is not None
        return self._dead_letter.queue or f"{self._own_name}.dead"

    @property
    def _own_name(self) -> str:
        return self.exchange.name or next(iter(self._queues), "messages")


def in_partition(name: str, number: int) -> str:
    """Return the name that an exchange or a queue has in a partition."""
    return f"{name}.{number}"
