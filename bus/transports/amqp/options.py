"""The options of a RabbitMQ transport, under Symfony's names where Symfony has them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from bus.errors import ConfigurationError
from bus.transports.amqp.structures import (
    nested,
    read_dead_letter,
    read_exchange,
    read_queues,
)
from bus.transports.amqp.topology import DeadLetter, Exchange, Queue, Topology
from bus.transports.dsn import Dsn, options_from

logger = logging.getLogger(__name__)

PORT: Final = 5672
TLS_PORT: Final = 5671
TLS_SCHEME: Final = "amqps"

_STRUCTURED: Final = ("exchange", "queues", "dead_letter")
_PARTITIONS_WHEN_ORDERED: Final = 10
_MOST_PARTITIONS: Final = 1000
_MOST_PREFETCHED: Final = 65535
_QUEUE_TYPES: Final = ("classic", "quorum")

# Symfony's options that mean nothing here, and why.
_LEFT_ASIDE: Final[Mapping[str, str]] = {
    "delay": "delayed messages wait in queues of the bus's own",
    "persistent": "a connection lives as long as its process",
    "read_timeout": "a thread of its own reads, and waits for nothing",
    "write_timeout": '"confirm_timeout" is how long a send may take',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpOptions:
    """Options of a RabbitMQ transport.

    Attributes:
        exchange: what is published to: ``name``, ``type``, ``default_publish_routing_key``, ``flags``, ``arguments``,
            ``bindings``. A fanout exchange called "messages", or as the DSN says.
        queues: what is consumed, by name: ``binding_keys``, ``binding_arguments``, ``flags``, ``arguments``. One
            called as the exchange. An empty map: this transport only publishes.
        dead_letter: where RabbitMQ puts what is rejected: ``exchange`` and ``queue``, or true.
        auto_setup: declare exchanges, queues and bindings when they are first used.
        queue_type: "quorum" or "classic", of every queue that does not say ``x-queue-type`` itself.
        prefetch_count: the most messages that RabbitMQ sends in advance; as many as the worker may hold.
        heartbeat: seconds between signs of life; a peer that is silent for twice as long is gone.
        connect_timeout: seconds that one server gets to accept a connection.
        confirm_timeout: seconds that RabbitMQ gets to confirm a message.
        rpc_timeout: seconds that RabbitMQ gets to answer anything else.
        frame_max: the largest frame in bytes.
        channel_max: the most channels of a connection.
        cacert: the file of the CAs that may have signed the server's certificate; the system's.
        cert: the file of the client's certificate.
        key: the file of the client certificate's key.
        verify: check the server's certificate and its name.
        sasl_method: "plain", or "external" to be known by the client's certificate.
        connection_name: what RabbitMQ shows for the connections; the transport's name and the process.
        host: the server, where the DSN names none.
        port: its port, where the DSN names none.
        vhost: the virtual host, where the DSN names none.
        user: the user, where the DSN names none.
        login: the same.
        password: the password, where the DSN names none.
        partitions: over so many partitions messages with a partition key are spread, each read by one worker; 0 is
            none. 10 with ``ordered``, otherwise 0.
        ordered: a failing message of a key is tried again before those that came after it.
        ordered_window: so many messages may wait behind failing ones before their partition pauses.
        delay_hops: delays from 100 s up wait in two steps, so that there are few delay queues. False: each length has
            its own queue, for queues shared with consumers that do not know the second step.
    """

    exchange: Exchange = field(default_factory=Exchange)
    queues: Mapping[str, Queue] | None = None
    dead_letter: DeadLetter | None = None
    auto_setup: bool = True
    queue_type: str | None = None
    prefetch_count: int | None = None
    heartbeat: int = 10
    connect_timeout: float = 5.0
    confirm_timeout: float = 5.0
    rpc_timeout: float = 5.0
    frame_max: int = 131072
    channel_max: int = 2047
    cacert: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    sasl_method: str = "plain"
    connection_name: str | None = None
    host: str | None = None
    port: int | None = None
    vhost: str | None = None
    user: str | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    partitions: int | None = None
    ordered: bool = False
    ordered_window: int = 1000
    delay_hops: bool = True

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        if self.queue_type is not None and self.queue_type not in _QUEUE_TYPES:
            yield 'option "queue_type" must be "classic" or "quorum"'
        if self.sasl_method.lower() not in ("plain", "external"):
            yield 'option "sasl_method" must be "plain" or "external"'
        for name in ("connect_timeout", "confirm_timeout", "rpc_timeout"):
            if getattr(self, name) <= 0:
                yield f'option "{name}" must be more than 0 seconds'
        for name, least, most in (
            ("heartbeat", 1, 3600),
            ("prefetch_count", 1, _MOST_PREFETCHED),
            ("frame_max", 4096, 131072),
            ("channel_max", 1, 65535),
            ("port", 1, 65535),
            ("partitions", 0, _MOST_PARTITIONS),
            ("ordered_window", 1, _MOST_PREFETCHED),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                yield f'option "{name}" must be {least} to {most}'
        if self.ordered and self.partitions == 0:
            yield 'option "ordered" needs partitions, and option "partitions" is 0'
        if (self.cert is None) != (self.key is None):
            yield 'options "cert" and "key" need each other'
        if self.queue_type == "quorum":
            for name, queue in (self.queues or {}).items():
                if "x-max-priority" in queue.arguments:
                    yield f'queue "{name}": a quorum queue has no priorities, so no argument "x-max-priority"'

    @property
    def number_of_partitions(self) -> int:
        """Over how many partitions keyed messages are spread; 0: none."""
        if self.partitions is not None:
            return self.partitions
        return _PARTITIONS_WHEN_ORDERED if self.ordered else 0

    @property
    def topology(self) -> Topology:
        """The exchanges and queues that these options describe."""
        queues = self.queues if self.queues is not None else {self.exchange.name or "messages": Queue()}
        return Topology(
            self.exchange,
            queues,
            queue_type=self.queue_type,
            dead_letter=self.dead_letter,
            partitions=self.number_of_partitions,
        )


def read_options(name: str, dsn: Dsn, options: Mapping[str, object]) -> AmqpOptions:
    """Make the options of the transport ``name`` from its DSN and its ``options:``; where both name one the DSN wins.

    Raises:
        ConfigurationError: with every problem.
    """
    query = nested(dsn.query)
    given: dict[str, object] = {**options, **query}
    for left in _LEFT_ASIDE.keys() & given.keys():
        logger.info('Transport "%s" leaves its option "%s" aside: %s', name, left, _LEFT_ASIDE[left])
        del given[left]
    structured = {each: given.pop(each) for each in _STRUCTURED if each in given}
    plain = options_from(AmqpOptions, replace(dsn, query={}), given, name)
    try:
        exchange = read_exchange(structured.get("exchange"), default_name=_exchange_in(dsn))
        return replace(
            plain,
            exchange=exchange,
            queues=read_queues(structured["queues"]) if structured.get("queues") is not None else None,
            dead_letter=read_dead_letter(structured.get("dead_letter")),
        )
    except ValueError as error:
        raise ConfigurationError(f'Transport "{name}": {error}') from None


def vhost_of(dsn: Dsn, options: AmqpOptions) -> str:
    """Return the virtual host: the first part of the DSN's path, else the option, else ``/``."""
    return (dsn.segments[0] if dsn.segments else "") or options.vhost or "/"


def _exchange_in(dsn: Dsn) -> str:
    return (dsn.segments[1] if len(dsn.segments) > 1 else "") or "messages"
