"""Publishes messages under confirmation: those of all threads over one connection, one behind the other.

A message is taken off the list when RabbitMQ has confirmed, returned or refused it. What was on its way when the
connection was lost is sent again over the next one, with the same message id.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from bus.errors import AccessDeniedError, ConnectionLostError, SendRefused, SendUnknown, TransportError, describe
from bus.transports.amqp.channel import Channel
from bus.transports.amqp.connection import BrokerConnection, Properties, Server
from bus.transports.amqp.declarations import Declarations, Need
from bus.transports.amqp.topology import Topology
from bus.transports.base import Sent

logger = logging.getLogger(__name__)

_IN_FLIGHT: Final = 2_000  # unconfirmed messages; the others wait here
_LOOK_AHEAD: Final = 100
_SLOWEST: Final = 1_000  # messages a second; a large batch gets so much more time
_NO_EXCHANGE: Final = re.compile(r"no exchange '(.*?)' in vhost")
_NOT_FOUND: Final = 404
_SENT: Final = Sent()


class Publication:
    """A message on its way: where it goes, and what has to be declared before. Used on the connection's thread."""

    __slots__ = ("batch", "body", "exchange", "needs", "position", "properties", "routing_key", "second_try", "written")

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes,
        needs: Need = None,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.body = body
        self.needs = needs
        self.written = False
        self.second_try = False
        self.batch: Batch
        self.position = 0

    @property
    def key(self) -> tuple[str, str, object]:
        """What tells which message was returned: RabbitMQ does not say its number."""
        return self.exchange, self.routing_key, self.properties.message_id


class Batch:
    """Publications that somebody waits for together. ``done`` is called once, on the connection's thread."""

    __slots__ = ("_done", "_left", "_lock", "abandoned", "publications", "results")

    def __init__(self, publications: Sequence[Publication], done: Callable[[Batch], None]) -> None:
        self.publications = publications
        self.results: list[Sent | TransportError | None] = [None] * len(publications)
        self.abandoned = False
        self._left = len(publications)
        self._done = done
        self._lock = threading.Lock()
        for position, publication in enumerate(publications):
            publication.batch, publication.position = self, position

    def may_write(self, publication: Publication) -> bool:
        """Take note that a message is written now, unless nobody waits for it any more."""
        with self._lock:
            publication.written = publication.written or not self.abandoned
            return not self.abandoned

    def conclude(self, publication: Publication, result: Sent | TransportError) -> None:
        """Note the result of a message; the first one counts."""
        if self.results[publication.position] is None:
            self.results[publication.position] = result
            self._left -= 1
            if not self._left:
                self._done(self)

    def abandon(self) -> None:
        """Wait no longer: what is not written yet never is."""
        with self._lock:
            self.abandoned = True


class Publisher:
    """The publishing connection of a transport. ``send`` and ``publish`` are for any thread."""

    def __init__(self, server: Server, topology: Topology, *, auto_setup: bool, name: str) -> None:
        self._connection = BrokerConnection(server, "publish", self)
        self._server = server
        self._name = name
        self._deadline = server.options.confirm_timeout
        self._declarations = Declarations(self._connection, topology, auto_setup=auto_setup, name=name)
        self._start_anew()

    def _start_anew(self) -> None:
        self._new: deque[Publication] = deque()  # from any thread
        self._channel: Channel | None = None
        self._unconfirmed: OrderedDict[int, Publication] = OrderedDict()
        self._again: deque[Publication] = deque()  # to be sent before the new ones
        self._returned: dict[tuple[str, str, object], list[str]] = {}
        self._number = 0
        self._ready = False
        self._careful = 0  # so many are sent one by one, to see which of them makes RabbitMQ close the channel
        self._last_error: TransportError | None = None

    # --- from any thread ---

    def send(self, publications: Sequence[Publication]) -> Sequence[Sent | TransportError]:
        """Publish, wait for the answers until the deadline and return them, in the same order.

        Raises:
            TransportError: none of them was written to a connection.
        """
        finished = threading.Lock()
        finished.acquire()
        batch = Batch(publications, lambda _: finished.release())
        self.publish(batch)
        if not finished.acquire(timeout=self._deadline + len(publications) / _SLOWEST):
            batch.abandon()
            return self._given_up(batch)
        return [each for each in batch.results if each is not None]

    def publish(self, batch: Batch) -> None:
        """Publish without waiting. Raises ConnectionLostError where no thread can be had."""
        self._new.extend(batch.publications)
        self._connection.connect()
        self._connection.call(self._pump)

    def _given_up(self, batch: Batch) -> Sequence[Sent | TransportError]:
        why = self._why_not()
        results = list(batch.results)
        if not any(results) and not any(each.written for each in batch.publications):
            raise ConnectionLostError(why)
        if not any(results) and self._connection.blocked is None:
            self._connection.call(self._connection.abort)  # nothing was answered all the time: it hangs
        return [
            result
            or (
                SendUnknown(f'A message to "{self._name}" was not confirmed within {self._deadline:g} s: {why}')
                if publication.written
                else SendRefused(f'A message to "{self._name}" was not sent within {self._deadline:g} s: {why}')
            )
            for publication, result in zip(batch.publications, results, strict=True)
        ]

    def _why_not(self) -> str:
        blocked = self._connection.blocked
        if blocked is not None:
            return f"{self._server} takes no messages for now: {blocked}"
        error = self._last_error
        return str(error) if error is not None else f"{self._server} does not answer"

    def close(self, timeout: float) -> None:
        """Close the connection. Idempotent; the next send opens it again."""
        self._connection.close(timeout)

    def forget(self) -> None:
        """Begin anew in a forked child."""
        self._connection.forget()
        self._declarations.forget()
        self._start_anew()

    @property
    def declared(self) -> frozenset[str]:
        """The queues that were declared for messages that wait or are parked."""
        return self._declarations.names

    @property
    def blocked(self) -> str | None:
        """Why RabbitMQ takes no messages for now; None: it does."""
        return self._connection.blocked

    # --- on the connection's thread ---

    def wants_connection(self) -> bool:
        """Tell whether anything waits to be sent."""
        for waiting in (self._again, self._new):
            while waiting and waiting[0].batch.abandoned:
                waiting.popleft()
        return bool(self._new or self._again)

    def connection_opened(self) -> None:
        """Open the channel, or go on where it is open."""
        self._last_error = None
        if self._channel is None:
            self._channel = self._connection.open_channel(self._channel_opened, self._channel_closed)
        else:
            self._pump()

    def connection_lost(self, error: TransportError) -> None:
        """Have everything unconfirmed sent again, or fail where trying again cannot help."""
        self._last_error = error
        self._channel, self._ready = None, False
        self._declarations.connection_lost()
        self._take_back()
        if isinstance(error, AccessDeniedError):
            for waiting in (self._again, self._new):
                while waiting:
                    self._fail(waiting.popleft(), AccessDeniedError(str(error)))

    def _take_back(self) -> None:
        self._again.extendleft(reversed(self._unconfirmed.values()))
        self._unconfirmed.clear()
        self._returned.clear()
        self._number = 0

    def _channel_opened(self, channel: Channel) -> None:
        channel.confirm(self._answered, self._was_returned, self._confirming)

    def _confirming(self) -> None:
        self._ready = True
        self._pump()

    def _pump(self) -> None:
        """Write what waits, as far as there is room."""
        if not self._ready or self._connection.blocked is not None:
            return
        channel, unconfirmed = self._channel, self._unconfirmed
        assert channel is not None
        while self._again or self._new:
            if len(unconfirmed) >= (1 if self._careful else _IN_FLIGHT):
                return
            waiting = self._again or self._new
            publication = waiting[0]
            if not publication.batch.abandoned and not self._declarations.has(
                publication.needs, self._pump, self._undeclarable, self._upcoming
            ):
                return
            waiting.popleft()
            if publication.batch.may_write(publication):
                self._write(channel, publication)

    def _upcoming(self) -> Iterable[Need]:
        """Return what the next messages need, so that they do not wait for one declaration after the other."""
        return [each.needs for each in [*self._again, *self._new][:_LOOK_AHEAD]]

    def _write(self, channel: Channel, publication: Publication) -> None:
        try:
            channel.publish(publication.exchange, publication.routing_key, publication.properties, publication.body)
        except Exception as error:  # noqa: BLE001 - whatever the client library cannot write
            if not channel.is_open:
                self._again.appendleft(publication)
                self._ready = False
                return
            publication.written = False
            self._fail(publication, SendRefused(f'A message to "{self._name}" cannot be written: {describe(error)}'))
            return
        self._number += 1
        self._unconfirmed[self._number] = publication

    def _answered(self, number: int, up_to: bool, accepted: bool) -> None:
        unconfirmed = self._unconfirmed
        if up_to:
            numbers = []
            for each in unconfirmed:
                if each > number:
                    break
                numbers.append(each)
        else:
            numbers = [number]
        for each in numbers:
            publication = unconfirmed.pop(each, None)
            if publication is not None:
                self._conclude(publication, accepted)
        if self._careful:
            self._careful = max(0, self._careful - len(numbers))
        if self._again or self._new:
            self._pump()

    def _conclude(self, publication: Publication, accepted: bool) -> None:
        texts = self._returned.get(publication.key) if self._returned else None
        if texts:
            text = texts.pop()
            if not texts:
                del self._returned[publication.key]
            self._unroutable(publication, text)
        elif accepted:
            publication.batch.conclude(publication, _SENT)
        else:
            refusal = f'RabbitMQ refuses a message to "{self._name}", {_named(publication)}'
            self._fail(publication, SendRefused(f"{refusal}: a queue that should get it is full"))

    def _was_returned(self, method: Any, properties: Properties) -> None:
        key = (method.exchange, method.routing_key, properties.message_id)
        self._returned.setdefault(key, []).append(f"{method.reply_code} {method.reply_text}")

    def _unroutable(self, publication: Publication, text: str) -> None:
        """Declare everything once more, for a queue may have been deleted; a second time it is refused."""
        if self._declarations.auto_setup and not publication.second_try:
            publication.second_try = True
            self._declarations.forget()
            self._again.append(publication)
            return
        self._fail(
            publication,
            SendRefused(
                f'RabbitMQ cannot route a message to "{self._name}", {_named(publication)}: {text}; '
                "no queue is bound there"
            ),
        )

    def _channel_closed(self, channel: Channel, code: int, text: str) -> None:
        """RabbitMQ has closed the channel for one message and does not say which: find out one by one."""
        if channel is not self._channel:
            return
        self._channel, self._ready = None, False
        if not code:
            return  # with its connection
        suspects = len(self._unconfirmed)
        if suspects == 1:
            (publication,) = self._unconfirmed.values()
            self._unconfirmed.clear()
            self._refused(publication, code, text)
            self._careful = max(0, self._careful - 1)
        else:
            self._careful = max(self._careful, suspects)
        self._take_back()
        if self._connection.is_open:
            self._channel = self._connection.open_channel(self._channel_opened, self._channel_closed)

    def _refused(self, publication: Publication, code: int, text: str) -> None:
        if code == _NOT_FOUND and self._declarations.auto_setup and not publication.second_try:
            publication.second_try = True
            self._declarations.forget()
            self._again.appendleft(publication)
            return
        missing = _NO_EXCHANGE.search(text)
        hint = f'; there is no exchange "{missing[1]}"' if missing is not None else ""
        self._fail(
            publication,
            SendRefused(f'RabbitMQ refuses a message to "{self._name}", {_named(publication)}: {code} {text}{hint}'),
        )

    def _undeclarable(self, needs: Need, error: TransportError) -> None:
        """Fail what needs something that cannot be declared; the others go on."""
        for waiting in (self._again, self._new):
            failing = [each for each in list(waiting) if needs is None or each.needs == needs]
            for publication in failing:
                waiting.remove(publication)
                self._fail(publication, SendRefused(str(error)))
        self._pump()

    def _fail(self, publication: Publication, error: TransportError) -> None:
        publication.batch.conclude(publication, error)


def _named(publication: Publication) -> str:
    return f'exchange "{publication.exchange}", routing key "{publication.routing_key}"'
