"""One channel of a connection, as far as we use it. For the connection's thread only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from bus.transports.amqp.topology import Bind, Declaration, DeclareExchange, DeclareQueue

# (channel, method, properties, body), as the client library calls it: nothing stands between, for it is a hot path.
OnMessage: TypeAlias = Callable[[Any, Any, Any, bytes], None]


class Channel:
    """A channel. RabbitMQ answers in order, and closes it where it refuses something: then nothing answers."""

    __slots__ = ("raw",)

    def __init__(self) -> None:
        self.raw: Any = None

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return bool(self.raw is not None and self.raw.is_open)

    def close(self) -> None:
        """Close it; what was delivered on it and not settled is delivered again."""
        if self.is_open:
            self.raw.close()

    # --- publishing ---

    def confirm(
        self,
        on_answer: Callable[[int, bool, bool], None],
        on_return: Callable[[Any, Any], None],
        ready: Callable[[], None],
    ) -> None:
        """Have every message confirmed.

        ``on_answer`` is told a number, whether it stands for all up to it too, and whether they are accepted.
        ``on_return`` is told the method and the properties of an unroutable one, before the answer.
        """
        self.raw.add_on_return_callback(lambda channel, method, properties, body: on_return(method, properties))

        def answered(frame: Any) -> None:
            method = frame.method
            on_answer(method.delivery_tag, method.multiple, method.NAME == "Basic.Ack")

        self.raw.confirm_delivery(answered, callback=lambda frame: ready())

    def publish(self, exchange: str, routing_key: str, properties: Any, body: bytes) -> None:
        """Publish a message that has to reach a queue. Raises where its properties cannot be written."""
        self.raw.basic_publish(exchange, routing_key, body, properties, mandatory=True)

    # --- declaring ---

    def declare(self, declarations: Iterable[Declaration], done: Callable[[], None]) -> None:
        """Declare all; ``done`` is called when the server has them."""
        for each in declarations:
            match each:
                case DeclareExchange():
                    self.raw.exchange_declare(
                        each.name,
                        each.type,
                        passive=each.passive,
                        durable=each.durable,
                        auto_delete=each.auto_delete,
                        internal=each.internal,
                        arguments=dict(each.arguments),
                        callback=_ignore,
                    )
                case DeclareQueue():
                    self.raw.queue_declare(
                        each.name,
                        passive=each.passive,
                        durable=each.durable,
                        auto_delete=each.auto_delete,
                        arguments=dict(each.arguments),
                        callback=_ignore,
                    )
                case Bind():
                    bind = self.raw.exchange_bind if each.to_exchange else self.raw.queue_bind
                    bind(each.destination, each.source, each.key, dict(each.arguments), callback=_ignore)
        self.round_trip(done)

    def count(self, queue: str, done: Callable[[int], None]) -> None:
        """Ask how many messages of a queue are ready; it has to exist."""
        self.raw.queue_declare(queue, passive=True, callback=lambda frame: done(frame.method.message_count))

    def round_trip(self, done: Callable[[], None]) -> None:
        """Call ``done`` when the server has seen everything so far, and what it had sent is here."""
        self.raw.basic_qos(prefetch_count=0, callback=lambda frame: done())

    # --- consuming ---

    def consume(self, queue: str, tag: str, prefetch: int, on_message: OnMessage, done: Callable[[], None]) -> None:
        """Have up to ``prefetch`` messages delivered, besides those to earlier consumers."""
        self.raw.basic_qos(prefetch_count=prefetch, callback=_ignore)
        self.raw.basic_consume(queue, on_message, consumer_tag=tag, callback=lambda frame: done())

    def cancel(self, tag: str) -> None:
        """End a consumer. What it was given stays ours, and what is on its way still comes."""
        self.raw.basic_cancel(tag, callback=_ignore)
        # Otherwise the client library gives back what is on its way, and it comes again as redelivered.
        self.raw._cancelled.discard(tag)

    def on_cancelled(self, cancelled: Callable[[], None]) -> None:
        """Be told when the server ends a consumer, as when its queue is deleted."""
        self.raw.add_on_cancel_callback(lambda frame: cancelled())

    def get(self, queue: str, on_message: OnMessage, on_empty: Callable[[], None]) -> None:
        """Take one message, or learn that none is ready. One at a time."""
        empty = self.raw.callbacks
        number = self.raw.channel_number

        def got(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            empty.remove(number, "Basic.GetEmpty", none)
            on_message(channel, method, properties, body)

        def none(frame: Any) -> None:
            on_empty()

        empty.add(number, "Basic.GetEmpty", none, one_shot=True)
        self.raw.basic_get(queue, got)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Settle a message, or all up to it."""
        self.raw.basic_ack(tag, multiple)

    def give_back(self, tag: int) -> None:
        """Have a message delivered again, at its place."""
        self.raw.basic_nack(tag, requeue=True)

    def reject(self, tag: int) -> None:
        """Give a message up; it is dead-lettered where the queue says so."""
        self.raw.basic_reject(tag, requeue=False)


def _ignore(frame: Any) -> None:
    """Have a call wait for its answer before the next one is made, as the client library does with a callback."""
