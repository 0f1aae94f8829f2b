"""A connection for questions: each is asked on a channel of its own, and its answer waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

from bus.errors import ConnectionLostError, TransportError
from bus.transports.amqp.channel import Channel
from bus.transports.amqp.connection import BrokerConnection, Server
from bus.transports.amqp.declarations import undeclarable
from bus.transports.amqp.topology import Declaration

T = TypeVar("T")


class Answer(Generic[T]):
    """What somebody waits for. The first answer counts."""

    def __init__(self) -> None:
        self._given = threading.Event()
        self._value: T | None = None
        self._error: TransportError | None = None

    def give(self, value: T) -> None:
        """Answer."""
        if not self._given.is_set():
            self._value = value
            self._given.set()

    def fail(self, error: TransportError) -> None:
        """Say why there is no answer."""
        if not self._given.is_set():
            self._error = error
            self._given.set()

    @property
    def given(self) -> bool:
        """Whether it was answered."""
        return self._given.is_set()

    def wait(self, seconds: float) -> T | None:
        """Return the value, or raise the error."""
        if not self._given.wait(seconds):
            raise ConnectionLostError("no answer")
        if self._error is not None:
            raise self._error
        return self._value


class Session:
    """Asks RabbitMQ. One thread at a time; blocks at most for the timeouts of the options."""

    def __init__(self, server: Server, purpose: str) -> None:
        self.connection = BrokerConnection(server, purpose, self)
        self._server = server
        self._waiting: list[Answer[Any]] = []
        self._to_ask: list[Callable[[], None]] = []

    def forget(self) -> None:
        """Begin anew in a forked child."""
        self.connection.forget()
        self._waiting, self._to_ask = [], []

    def close(self, timeout: float) -> None:
        """Close the connection; what was taken over it and not settled goes back. Idempotent."""
        self.connection.close(timeout)

    def ask(
        self, question: Callable[[Channel, Answer[T]], None], refused: Callable[[int, str, Answer[T]], None]
    ) -> T | None:
        """Ask on a new channel and return the answer; ``refused`` is told where the server closes the channel.

        Raises TransportError where there is none, within the timeouts.
        """
        answer: Answer[T] = Answer()
        self._waiting.append(answer)
        self._to_ask.append(partial(self._begin, question, refused, answer))
        try:
            self.connection.connect()
            self.connection.call(self._ask_all)
            options = self._server.options
            return answer.wait(options.connect_timeout + options.rpc_timeout)
        except ConnectionLostError as error:
            if answer.given:
                raise
            raise ConnectionLostError(f"{self._server} does not answer") from error
        finally:
            self._waiting.remove(answer)

    def declare(self, name: str, declarations: Iterable[Declaration]) -> None:
        """Declare all. Raises Undeclarable where the server does not take one."""
        wanted = list(declarations)

        def question(channel: Channel, answer: Answer[None]) -> None:
            def declared() -> None:
                answer.give(None)
                channel.close()

            channel.declare(wanted, declared)

        self.ask(question, lambda code, text, answer: answer.fail(undeclarable(name, code, text, wanted)))

    def count(self, queue: str) -> int | None:
        """Return how many messages of a queue are ready; None: there is no such queue."""

        def question(channel: Channel, answer: Answer[int]) -> None:
            def counted(count: int) -> None:
                answer.give(count)
                channel.close()

            channel.count(queue, counted)

        def refused(code: int, text: str, answer: Answer[int]) -> None:
            if code == _NOT_FOUND:
                answer.fail(_MissingError(text))
            else:
                answer.fail(ConnectionLostError(f'The queue "{queue}" cannot be looked at: {code} {text}'))

        try:
            return self.ask(question, refused)
        except _MissingError:
            return None

    # --- on the connection's thread ---

    def wants_connection(self) -> bool:
        """Tell whether anything is to be asked."""
        return bool(self._to_ask)

    def connection_opened(self) -> None:
        """Ask what waits."""
        self._ask_all()

    def connection_lost(self, error: TransportError) -> None:
        """Leave the questions without an answer."""
        self._to_ask.clear()
        for answer in list(self._waiting):
            answer.fail(type(error)(str(error)))

    def _ask_all(self) -> None:
        while self._to_ask and self.connection.is_open:
            self._to_ask.pop(0)()

    def _begin(
        self,
        question: Callable[[Channel, Answer[T]], None],
        refused: Callable[[int, str, Answer[T]], None],
        answer: Answer[T],
    ) -> None:
        def closed(_: Channel, code: int, text: str) -> None:
            if code:
                refused(code, text, answer)

        self.connection.open_channel(lambda channel: question(channel, answer), closed)


_NOT_FOUND = 404


class _MissingError(TransportError):
    """There is no such queue."""
