"""The consuming connection of a transport: all its queues, what was delivered, and who may have it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final

from bus.errors import AccessDeniedError, ConnectionLostError, TransportError
from bus.transports.amqp.claims import AmqpClaim
from bus.transports.amqp.connection import BrokerConnection, Server
from bus.transports.amqp.copies import Copies
from bus.transports.amqp.countdown import Countdown
from bus.transports.amqp.declarations import Declarations, Undeclarable, as_configuration_error
from bus.transports.amqp.publisher import Publisher
from bus.transports.amqp.reader import QueueReader, Received
from bus.transports.amqp.topology import Topology

logger = logging.getLogger(__name__)

_DENIED: Final = 403
_LOOK: Final = 0.2  # seconds for which a queue that is not empty may send nothing
_BETWEEN_LOOKS: Final = 0.005
_PARTITION_WINDOW: Final = 100  # messages that are sent of a partition in advance


class Consumer:
    """Keeps the queues of a transport read. Methods are for any thread unless they say otherwise.

    Attributes:
        readers: by queue; those that are read now.
        found_empty: nothing is there, and what comes announces itself.
    """

    def __init__(
        self, server: Server, topology: Topology, publisher: Publisher, *, auto_setup: bool, name: str
    ) -> None:
        self.connection = BrokerConnection(server, "consume", self)
        self.readers: dict[str, QueueReader] = {}
        self._server = server
        self._topology = topology
        self._name = name
        self._timeout = server.options.rpc_timeout
        self._declarations = Declarations(self.connection, topology, auto_setup=auto_setup, name=name)
        self.copies = Copies(self.connection, publisher, name)
        self._wakes: list[Callable[[], None]] = []
        self._start_anew()

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._wanted: tuple[str, ...] = tuple(self._topology.readable)
        self.readers = {}
        self._consuming = False
        self._starting = False
        self._outcome = threading.Event()
        self._error: Exception | None = None
        self._news = threading.Event()
        self._told = False
        self.found_empty = False
        self._suspicious = True
        self._isolated = False
        self._target = 1

    def forget(self) -> None:
        """Begin anew in a forked child."""
        for reader in self.readers.values():
            reader.lose()
        self.connection.forget()
        self._declarations.forget()
        self._declarations.connection_lost()
        self.copies.forget()
        self._start_anew()

    # --- starting ---

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when messages have come, or the connection is gone."""
        self._wakes.append(wake)

    def choose(self, queues: Iterable[str]) -> None:
        """Read these queues and no others."""
        wanted = tuple(queues)
        if wanted != self._wanted:
            with self._lock:
                self._wanted = wanted
                self._consuming = False

    def start(self) -> None:
        """Begin to consume, in the background, unless that was done. Raises ConnectionLostError."""
        with self._lock:
            if self._consuming or self._starting:
                return
            self._starting = True
            self._error = None
            self._outcome.clear()
        try:
            self.connection.connect()
        except TransportError:
            self._starting = False
            raise
        self.connection.call(self._open_readers)

    def ensure_consuming(self) -> None:
        """Return when every queue is consumed.

        Raises:
            TransportError: the server cannot be reached, or does not let us.
            ConfigurationError: something is there with other arguments than the configuration says.
        """
        if self._consuming:
            return
        self.start()
        if not self._outcome.wait(self._server.options.connect_timeout + self._timeout):
            self._starting = False
            raise ConnectionLostError(f"{self._server} does not answer")
        error = self._error
        if error is not None:
            raise type(error)(str(error)) from error

    # --- for the thread that gets messages ---

    def aim_at(self, window: int) -> None:
        """Have about so many messages delivered in advance: as many as the worker may hold."""
        fixed = self._server.options.prefetch_count
        wanted = fixed if fixed is not None else max(1, window)
        if wanted > self._target or wanted * 2 < self._target:
            # A window that grows step by step shall not cost as many answers.
            self._target = wanted if wanted <= self._target else max(wanted, min(self._target * 2, 100))
            self.connection.call(self._adjust)

    def resume(self) -> None:
        """Consume on, after a suspect was handed out."""
        if self._isolated:
            self._isolated = False
            self.connection.call(self._adjust)

    def isolate(self, suspect: Received) -> bool:
        """Hold nothing but this message; False where that cannot be had now.

        Everything that was settled is settled then. What else was delivered goes back, and counts for nothing.
        """
        finished = threading.Event()
        self.connection.call(partial(self._isolate, suspect, finished.set))
        return finished.wait(self._timeout)

    def look(self) -> None:
        """Return when there is something, or surely nothing."""
        deadline = time.monotonic() + self._timeout
        give_up = time.monotonic() + _LOOK
        while self._consuming and not any(each.buffer for each in list(self.readers.values())):
            if time.monotonic() > deadline:
                raise ConnectionLostError(f"{self._server} does not answer")
            if time.monotonic() > give_up and not self.copies.under_way:
                return
            self._news.clear()
            answer: list[int] = []
            self.connection.call(partial(self._look, answer))
            self._news.wait(self._timeout)
            if answer == [0]:
                self.found_empty = not any(each.buffer for each in list(self.readers.values()))
                return
            if answer:
                self._news.wait(_BETWEEN_LOOKS)

    # --- settling ---

    def settle(self, acks: Collection[AmqpClaim], rejects: Collection[AmqpClaim] = ()) -> None:
        """Acknowledge and reject. Returns at once."""
        for claims, rejecting in ((acks, False), (rejects, True)):
            by_reader: dict[QueueReader, list[AmqpClaim]] = {}
            for claim in claims:
                claim.reader.claims.pop(claim.tag, None)
                by_reader.setdefault(claim.reader, []).append(claim)
            for reader, settled in by_reader.items():
                tags = [claim.tag for claim in settled]
                settle = reader.reject if rejecting else reader.ack
                reader.call(partial(settle, settled[0].channel, tags))

    def round_trip(self) -> None:
        """Wait until the server has seen everything that was settled, or does not answer."""
        finished = threading.Event()
        self.connection.call(partial(self._round_trip, finished.set))
        finished.wait(self._timeout)

    # --- stopping ---

    def stop(self, timeout: float) -> None:
        """Give back what was not begun, and close the connection. Idempotent."""
        if self.connection.running:
            finished = threading.Event()
            self.connection.call(partial(self._give_everything_back, finished.set))
            finished.wait(timeout)
        with self._lock:
            self._consuming = self._starting = False
        self.connection.close(timeout)
        for reader in list(self.readers.values()):
            reader.lose()
        self.readers = {}

    # --- on the connection's thread ---

    def wants_connection(self) -> bool:
        """Tell whether somebody waits for it."""
        return self._starting

    def connection_opened(self) -> None:
        """Open every channel."""
        self._open_readers()

    def connection_lost(self, error: TransportError) -> None:
        """Withdraw every claim; whoever asks next begins anew."""
        self._declarations.connection_lost()
        self.copies.under_way = 0
        for reader in self.readers.values():
            reader.lose()
        self._stop_consuming(error)

    def _stop_consuming(self, error: Exception) -> None:
        self._error = error
        self._consuming = self._starting = False
        self._suspicious, self._isolated, self._target = True, False, 1
        self.found_empty = False
        self._outcome.set()
        self._tell()

    def _open_readers(self) -> None:
        if not self.connection.is_open:
            return
        if not self._declarations.has(None, self._open_readers, self._undeclarable):
            return
        for name in list(self.readers.keys() - set(self._wanted)):
            reader = self.readers.pop(name)
            messages = list(reader.buffer)
            reader.lose_buffer()
            self.copies.give_back(reader, messages, reader.close)
        for name in self._wanted:
            reader = self.readers.get(name) or QueueReader(self._topology.readable[name], self.connection, self)
            self.readers[name] = reader
            reader.open(self._prefetch_of(reader))
        self.reader_ready()

    def reader_ready(self) -> None:
        """Take note that a queue is consumed; when all are, whoever waits goes on."""
        if all(each.consuming for each in self.readers.values()):
            self._consuming, self._starting = True, False
            self._outcome.set()

    def _undeclarable(self, _: object, error: TransportError) -> None:
        self._stop_consuming(
            as_configuration_error(error) if isinstance(error, Undeclarable) else ConnectionLostError(str(error))
        )

    def reader_lost(self, reader: QueueReader, code: int, text: str) -> None:
        """Begin anew with a queue that the server has ended, as after a handler that took too long."""
        if not self.connection.is_open:
            return
        logger.warning('Queue "%s" of "%s" is read anew: %s %s', reader.queue.name, self._name, code or "", text)
        self._declarations.forget()
        error = f'Transport "{self._name}", queue "{reader.queue.name}": {code or ""} {text}'
        self._stop_consuming(AccessDeniedError(error) if code == _DENIED else ConnectionLostError(error))

    def arrived(self) -> None:
        """Tell others, once for everything that has come by then."""
        self.found_empty = False
        if not self._told:
            self._told = True
            self.connection.soon(self._tell)

    def _tell(self) -> None:
        self._told = False
        self._news.set()
        for wake in self._wakes:
            wake()

    def to_be_replaced(self, reader: QueueReader, received: Received) -> None:
        """Have a copy come back in its stead."""
        self.found_empty = False
        self.copies.replace(reader, received)

    def is_fresh(self, *, fresh: bool) -> None:
        """Hold one at a time from a suspect on, until a fresh message comes: so only the killer's count climbs."""
        if fresh == self._suspicious:
            self._suspicious = not fresh
            self.connection.soon(self._adjust)

    def _prefetch_of(self, reader: QueueReader) -> int:
        options = self._server.options
        if reader.queue.partition is not None:
            # For good: a consumer that begins anew stands behind those of other workers.
            return options.ordered_window if options.ordered else options.prefetch_count or _PARTITION_WINDOW
        return 1 if self._suspicious else self._target

    def _adjust(self) -> None:
        if self._isolated:
            return
        for reader in self.readers.values():
            reader.set_prefetch(self._prefetch_of(reader))

    def _isolate(self, suspect: Received, done: Callable[[], None]) -> None:
        readers = list(self.readers.values())
        self._isolated = True

        def paused() -> None:
            given_back = Countdown(len(readers), done)
            for reader in readers:
                if reader.queue.partition is not None:
                    given_back.one_less()
                    continue
                others = reader.keep_only(suspect)
                self.copies.give_back(reader, others, given_back.one_less)

        pausing = Countdown(len(readers), paused)
        for reader in readers:
            reader.pause(pausing.one_less)

    def _round_trip(self, done: Callable[[], None]) -> None:
        channels = [each.channel for each in self.readers.values()]
        usable = [each for each in channels if each is not None and each.is_open]
        answers = Countdown(len(usable), done)
        for channel in usable:
            channel.round_trip(answers.one_less)

    def _look(self, answer: list[int]) -> None:
        readers = list(self.readers.values())
        ready: list[int] = [self.copies.under_way]

        def answered() -> None:
            answer.append(sum(ready))
            self._news.set()

        answers = Countdown(len(readers), answered)
        for reader in readers:
            channel = reader.channel
            if channel is None or not channel.is_open:
                self._news.set()
                return
            if reader.queue.partition is None:
                channel.count(reader.queue.name, ready.append)
            channel.round_trip(answers.one_less)

    def _give_everything_back(self, done: Callable[[], None]) -> None:
        readers = [each for each in self.readers.values() if each.consuming]
        self._isolated = True

        def paused() -> None:
            given_back = Countdown(len(readers), done)
            for reader in readers:
                unbegun = [each.received for each in list(reader.claims.values()) if each.withdraw_unless_begun()]
                messages = [*unbegun, *reader.buffer]
                reader.lose_buffer()
                if reader.queue.partition is None:
                    self.copies.give_back(reader, messages, given_back.one_less)
                else:
                    reader.close()  # which puts them back where they were, before the next reader begins
                    given_back.one_less()

        pausing = Countdown(len(readers), paused)
        for reader in readers:
            reader.pause(pausing.one_less)


def claims_of(readers: Iterable[QueueReader]) -> Sequence[AmqpClaim]:
    """Return the claims on what was delivered and not settled."""
    return [claim for reader in readers for claim in list(reader.claims.values())]
