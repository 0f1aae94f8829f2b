"""A messenger for tests: nothing leaves the process, and everything can be looked at."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from bus.config.schema import BusConfig, MessengerConfig, MiddlewareConfig, TransportConfig
from bus.envelope import Envelope
from bus.error_details import first_cause
from bus.errors import ConfigurationError
from bus.events import MessageSettled
from bus.handler_arguments import Container
from bus.messenger import Messenger
from bus.stamps import PeekedStamp, TransportMessageIdStamp
from bus.testing.clock import FakeClock
from bus.testing.envelopes import Envelopes
from bus.testing.recording import Recorder
from bus.transports.base import Delivery, Outgoing, Peeked
from bus.transports.memory import MemoryDriver
from bus.worker import WorkerOptions

_WITH_A_STORE: Final = ("idempotency", "deduplicate")


def in_memory(config: MessengerConfig) -> MessengerConfig:
    """Return the same configuration with every transport and every store in this process.

    Transports of ``sync://`` stay. Routing, retries and failure transports stay as well; rate limits and outboxes go.
    The database of the middleware ``transaction`` belongs to the program, and stays.
    """
    return replace(
        config,
        transports={name: _transport_in_memory(each) for name, each in config.transports.items()},
        buses={name: _bus_in_memory(each) for name, each in config.buses.items()},
        store="memory://",
    )


def _transport_in_memory(config: TransportConfig) -> TransportConfig:
    if config.dsn.startswith("sync:"):
        return config
    return replace(config, dsn="in-memory://", options={}, rate_limiter=None, outbox=None)


def _bus_in_memory(config: BusConfig) -> BusConfig:
    return replace(config, middleware=tuple(_with_shared_store(each) for each in config.middleware))


def _with_shared_store(config: MiddlewareConfig) -> MiddlewareConfig:
    if config.name not in _WITH_A_STORE:
        return config
    named = {name: value for name, value in config.arguments.items() if name != "store"}
    # The store is the first argument of Symfony's list form.
    return replace(config, arguments=named, positional=(None, *config.positional[1:]) if config.positional else ())


class TestMessenger(Messenger):
    """A messenger whose transports keep their messages in this process, and which tells what happened to them.

    Time stands still until ``clock.advance(seconds)``: then delayed messages and retries are due.

    Attributes:
        clock: what transports, stamps and stores take the time from.
        dispatched: every dispatch on any bus, those of handlers too, in the order in which they began.
    """

    __test__: ClassVar[bool] = False  # no class of tests, whatever pytest makes of its name

    def __init__(
        self,
        config: MessengerConfig | None = None,
        *,
        imports: Iterable[str] = (),
        handlers: Iterable[Callable[..., Any]] = (),
        container: Container | None = None,
        clock: FakeClock | None = None,
        keep_transports: bool = False,
    ) -> None:
        """Build everything that the configuration names, in memory.

        Args:
            config: as for Messenger.
            imports: as for Messenger.
            handlers: as for Messenger.
            container: as for Messenger; give one that holds doubles of what handlers must not reach.
            clock: None: one that begins on a day in 2023.
            keep_transports: take transports, stores and limits as the configuration names them.

        Raises:
            ConfigurationError: with every problem that was found.
        """
        self.clock = FakeClock() if clock is None else clock
        config = config or MessengerConfig()
        super().__init__(
            config if keep_transports else in_memory(config),
            imports=imports,
            handlers=handlers,
            container=container,
            clock=self.clock,
        )
        recorder = Recorder()
        for bus in self.buses.values():
            bus.surround(recorder)
        self.dispatched = Envelopes("dispatched", recorder.envelopes)

    @classmethod
    def from_yaml(
        cls,
        path: str | Path | None = None,
        *,
        imports: Iterable[str] = (),
        container: Container | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Build a messenger from a YAML file; ``APP_ENV`` is ``test`` unless an ``environment`` is given.

        Otherwise as Messenger.from_yaml.
        """
        environment = {**os.environ, "APP_ENV": "test"} if environment is None else environment
        return super().from_yaml(path, imports=imports, container=container, environment=environment)

    def consume_all(self, *receivers: str, allow_failures: bool = False) -> list[MessageSettled]:
        """Handle what is due in these transports, and what comes of it, until nothing is due; return what was settled.

        Without names, in every transport but those of failed messages. Handlers run in the calling thread, ``async
        def`` ones on the loop of the process. Blocks.

        Raises:
            Exception: what the dispatch of a message raised, after all of them were settled, unless ``allow_failures``;
                an ExceptionGroup where several failed.
        """
        failure_transports = set(self.failure_transports.values())
        names = receivers or tuple(each for each in self.transports if each not in failure_transports)
        settled: list[MessageSettled] = []
        if not names:
            return settled
        settle = settled.append
        self.events.on(MessageSettled, settle)
        try:
            self.worker(names, WorkerOptions(stop_when_empty=True, fail_fast=True)).run()
        finally:
            self.events.off(MessageSettled, settle)
        if not allow_failures:
            _raise_failures(settled)
        return settled

    def sent(self, transport: str | None = None) -> Envelopes:
        """Return everything that a transport was given to keep, decoded; without a name: of all transports."""
        return self._decoded("sent", transport, lambda driver: driver.sent)

    def acknowledged(self, transport: str | None = None) -> Envelopes:
        """Return what a transport may forget because it was handled, or stored in a failure transport."""
        return self._decoded("acknowledged", transport, lambda driver: driver.acknowledged)

    def rejected(self, transport: str | None = None) -> Envelopes:
        """Return what was given up and stored nowhere else."""
        return self._decoded("rejected", transport, lambda driver: driver.rejected)

    def waiting(self, transport: str | None = None) -> Envelopes:
        """Return what a transport holds now: due, delayed or parked, as the PeekedStamp says; none is claimed."""
        envelopes = [each for name in self._named_or_all(transport) for each in self._peek(name)]
        return Envelopes(_what("waiting", transport), envelopes)

    def _peek(self, name: str) -> list[Envelope]:
        envelopes = self.transport(name).peek(sys.maxsize)
        if envelopes is None:
            raise ConfigurationError(f'the transport "{name}" cannot list its messages')
        return envelopes

    def _decoded(
        self, what: str, transport: str | None, chosen: Callable[[MemoryDriver], Sequence[Outgoing | Delivery]]
    ) -> Envelopes:
        envelopes = [
            self.transport(name)
            .decode(Peeked("", each.body, each.headers))
            .without(PeekedStamp, TransportMessageIdStamp)
            for name in self._named_or_all(transport)
            for each in list(chosen(self._memory_driver(name)))
        ]
        return Envelopes(_what(what, transport), envelopes)

    def _named_or_all(self, transport: str | None) -> Sequence[str]:
        return tuple(self.transports) if transport is None else (transport,)

    def _memory_driver(self, name: str) -> MemoryDriver:
        driver = self.transport(name).driver
        if not isinstance(driver, MemoryDriver):
            raise ConfigurationError(
                f'the transport "{name}" is not in memory, so nobody remembers its messages; '
                "build this messenger without keep_transports"
            )
        return driver


def _what(happened: str, transport: str | None) -> str:
    preposition = {"sent": "to", "acknowledged": "by", "rejected": "by", "waiting": "in"}[happened]
    return happened if transport is None else f'{happened} {preposition} "{transport}"'


def _raise_failures(settled: Iterable[MessageSettled]) -> None:
    errors = [each.error for each in settled if each.error is not None and each.outcome != "postponed"]
    if len(errors) > 1:
        raise BaseExceptionGroup(f"{len(errors)} messages failed", errors)
    if errors:
        # The traceback of what really failed is what a test's report should show.
        cause = first_cause(errors[0])
        raise errors[0] from (cause if cause is not errors[0] else cause.__cause__)
