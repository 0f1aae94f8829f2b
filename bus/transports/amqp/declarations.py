"""What was declared over one connection, and what is still to be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from bus.errors import ConfigurationError, TransportError
from bus.transports.amqp.channel import Channel
from bus.transports.amqp.connection import BrokerConnection
from bus.transports.amqp.delays import DelayQueue
from bus.transports.amqp.topology import Declaration, DeclareExchange, DeclareQueue, Topology

logger = logging.getLogger(__name__)

# A queue beside the topology, or None: the topology.
Need: TypeAlias = DelayQueue | DeclareQueue | None

_MISMATCH: Final = 406
_DENIED: Final = 403
_NOT_FOUND: Final = 404


class Undeclarable(TransportError):  # noqa: N818 - named as SendRefused is
    """RabbitMQ does not take a declaration; ``code`` is its own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Declarations:
    """Declares a transport's topology, delay queues and other queues, each once. For the connection's thread.

    Declaring has a channel of its own, because RabbitMQ closes it when it does not take a declaration.
    """

    def __init__(self, connection: BrokerConnection, topology: Topology, *, auto_setup: bool, name: str) -> None:
        self.auto_setup = auto_setup
        self._connection = connection
        self._topology = topology
        self._name = name
        self._declared: set[str | None] = set()  # names; None is the topology
        self._under_way = False
        self._one_by_one = False

    def forget(self) -> None:
        """Declare everything anew: something may have been deleted."""
        self._declared.clear()

    @property
    def names(self) -> frozenset[str]:
        """The queues that were declared beside the topology. From any thread."""
        return frozenset(each for each in self._declared.copy() if each is not None)

    def connection_lost(self) -> None:
        """Take note that what was under way will not be answered."""
        self._under_way = False

    def has(
        self,
        needs: Need,
        then: Callable[[], None],
        failed: Callable[[Need, TransportError], None],
        upcoming: Callable[[], Iterable[Need]] = tuple,
    ) -> bool:
        """Tell whether the topology, and what is needed beside it, is there.

        Otherwise it is declared, with what else is ``upcoming``, and then ``then`` is called, or ``failed`` with what
        cannot be declared.
        """
        if (None in self._declared or not self.auto_setup) and (needs is None or needs.name in self._declared):
            return True
        if self._under_way:
            return False
        if self.auto_setup and None not in self._declared:
            group: list[Need] = [None]
        else:
            group = [needs]
            if not self._one_by_one:
                names = {each.name: each for each in upcoming() if each is not None}
                group += [each for name, each in names.items() if name not in self._declared and each != needs]
        self._under_way = True

        def done(error: Undeclarable | None) -> None:
            self._under_way = False
            # One of a group was not taken, and which is not said: then each by itself.
            self._one_by_one = error is not None
            if error is None or (len(group) == 1 and self._exists_otherwise(group[0], error)):
                self._declared.update(each.name if each is not None else None for each in group)
            elif len(group) == 1:
                failed(group[0], error)
                return
            then()

        self._declare([each for need in group for each in self._of(need)], done)
        return False

    def _of(self, needs: Need) -> Iterable[Declaration]:
        if needs is None:
            return list(self._topology.declarations())
        if isinstance(needs, DelayQueue):
            return list(needs.declarations(at_least_once=self._connection.keeps_dead_letters))
        return [needs]

    def _exists_otherwise(self, needs: Need, error: Undeclarable) -> bool:
        """Tell whether a delay queue, or one for parked messages, is there as another version declared it."""
        if needs is None or error.code != _MISMATCH:
            return False
        logger.warning('Queue "%s" of "%s" is used as it is: %s', needs.name, self._name, error)
        return True

    def _declare(self, declarations: Iterable[Declaration], done: Callable[[Undeclarable | None], None]) -> None:
        finished: list[bool] = []

        def declared() -> None:
            finished.append(True)
            channel.close()
            done(None)

        def closed(_: Channel, code: int, text: str) -> None:
            if not finished and code:
                finished.append(True)
                done(undeclarable(self._name, code, text, declarations))

        channel = self._connection.open_channel(lambda opened: opened.declare(declarations, declared), closed)


def undeclarable(name: str, code: int, text: str, declarations: Iterable[Declaration]) -> Undeclarable:
    """Return the error for what RabbitMQ says to a declaration."""
    if code == _MISMATCH:
        ours = next((each for each in declarations if _is_named(each, text)), None)
        shown = f"; the configuration says {describe_declaration(ours)}" if ours is not None else ""
        return Undeclarable(
            code,
            f'Transport "{name}": something of that name is there with other arguments: {text}{shown}; '
            "give it another name, or make the configuration say what is there",
        )
    if code == _DENIED:
        return Undeclarable(
            code,
            f'Transport "{name}" may not declare its exchanges and queues: {text}; '
            'give the user that right, or declare them otherwise and set "auto_setup" to false',
        )
    if code == _NOT_FOUND:
        return Undeclarable(code, f'Transport "{name}": something that has to exist does not: {text}')
    return Undeclarable(code, f'Transport "{name}": RabbitMQ does not take a declaration: {code} {text}')


def describe_declaration(declaration: Declaration) -> str:
    """Return what a declaration says, for people."""
    match declaration:
        case DeclareExchange():
            return (
                f'exchange "{declaration.name}" of type "{declaration.type}" '
                f"(durable {declaration.durable}, arguments {dict(declaration.arguments)})"
            )
        case DeclareQueue():
            return (
                f'queue "{declaration.name}" (durable {declaration.durable}, '
                f"auto-delete {declaration.auto_delete}, arguments {dict(declaration.arguments)})"
            )
    return f'a binding of "{declaration.destination}" to "{declaration.source}"'


def as_configuration_error(error: TransportError) -> Exception:
    """Return the error that a worker stops with, where only a person can change that."""
    return ConfigurationError(str(error)) if isinstance(error, Undeclarable) and error.code != _DENIED else error


def _is_named(declaration: Declaration, text: str) -> bool:
    match declaration:
        case DeclareExchange():
            return f"exchange '{declaration.name}'" in text
        case DeclareQueue():
            return f"queue '{declaration.name}'" in text
    return False
