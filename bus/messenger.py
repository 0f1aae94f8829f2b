"""The messenger: what programs and the command line hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from bus.children import consume_command
from bus.clock import Clock
from bus.config.build import build
from bus.config.discovery import make_working_directory_importable
from bus.config.loader import load
from bus.config.schema import MessengerConfig
from bus.consumption import consume
from bus.envelope import Envelope
from bus.errors import BusError, ConfigurationError, UnrecoverableError, did_you_mean, quoted
from bus.failures import FailedMessages
from bus.handler_arguments import Container
from bus.life_line import LifeLine
from bus.limits import Limits
from bus.message_bus import MessageBus
from bus.stamps import BusNameStamp, FailureDecisionStamp, HandledStamp, ParkDecisionStamp, ReceivedStamp, Stamp
from bus.stop_requests import stop_requests
from bus.store.base import Store
from bus.supervisor import supervise
from bus.transports.base import Counts, SetsUp, SetsUpBySql
from bus.transports.transport import Transport
from bus.worker import Worker, WorkerOptions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TransportStats:
    """How many messages a transport holds; None where it cannot tell."""

    name: str
    counts: Counts | None


class Messenger:
    """Buses, transports and workers of one configuration. Thread-safe; nothing connects before it is used.

    Attributes:
        bus: the default bus.
        buses: every bus by name.
        transports: every transport by name, those of ``sync://`` excepted.
        types: the message types that may come from the wire.
        handlers: every handler.
        routing: which transports a message goes to.
        failure_transports: transport -> the one that keeps what it gives up, or None.
        events: tells what happens in this messenger's workers.
        consuming: the one of this process whose ``consume`` runs.
    """

    consuming: ClassVar[Messenger | None] = None

    def __init__(
        self,
        config: MessengerConfig | None = None,
        *,
        imports: Iterable[str] = (),
        handlers: Iterable[Callable[..., Any]] = (),
        container: Container | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Build everything that the configuration names.

        Args:
            config: the whole configuration; None: one bus, nothing routed.
            imports: further modules with messages and handlers.
            handlers: further handlers: functions, bound methods, callable objects or classes, marked or not.
            container: builds handler classes and fills their parameters by type.
            clock: for tests.

        Raises:
            ConfigurationError: with every problem that was found.
        """
        self.config = config or MessengerConfig()
        parts = build(self.config, imports=imports, handlers=handlers, container=container, clock=clock)
        self.types = parts.types
        self.handlers = parts.handlers
        self.routing = parts.routing
        self.buses: Mapping[str, MessageBus] = parts.buses
        self.bus = parts.buses[parts.default_bus]
        self.transports: Mapping[str, Transport] = parts.transports
        self.failure_transports = parts.failure_transports
        self.events = parts.events
        self.settler = parts.settler
        self._stores = parts.stores
        self._outboxes = parts.outboxes
        self._closing = parts.closing

    @classmethod
    def from_yaml(
        cls,
        path: str | Path | None = None,
        *,
        imports: Iterable[str] = (),
        container: Container | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Build a messenger from a YAML file.

        Without a path, ``$BUS_CONFIG``, ``messenger.yaml``, ``config/messenger.yaml`` and
        ``config/packages/messenger.yaml`` are looked for; where there is none, one bus handles everything here.

        Raises:
            ConfigurationError: with every problem that was found, one line each.
        """
        make_working_directory_importable()
        return cls(load(path, environment=environment), imports=imports, container=container)

    @property
    def store(self) -> Store:
        """The shared store, made when it is first asked for.

        Raises:
            ConfigurationError: it names a connection that does not exist.
        """
        return self._stores.shared.get()

    def dispatch(self, message: object, stamps: Iterable[Stamp] = ()) -> Envelope:
        """Dispatch a message on the default bus; see MessageBus.dispatch."""
        return self.bus.dispatch(message, stamps)

    def handle(self, message: object, stamps: Iterable[Stamp] = ()) -> Any:
        """Dispatch a message that exactly one handler handles here, and return its result (a query).

        Raises:
            BusError: no handler or several handlers handled it, or it was sent away.
        """
        envelope = self.bus.dispatch(message, stamps)
        handled = envelope.all(HandledStamp)
        if len(handled) != 1:
            names = quoted(stamp.handler_name for stamp in handled)
            raise BusError(
                f'"{type(Envelope.wrap(message).message).__qualname__}" was handled {len(handled)} times (by {names}); '
                "handle() needs exactly one handler that runs here."
            )
        return handled[0].result

    def worker(
        self, receivers: Sequence[str] = (), options: WorkerOptions | None = None, *, bus: str | None = None
    ) -> Worker:
        """Make a worker for these transports, the first one first; without names, for the only one there is.

        Args:
            receivers: names of transports.
            options: how it works.
            bus: the bus for every message, instead of the one that the message names.

        Raises:
            ConfigurationError: a name does not exist, or none is given and there are several.
        """
        chosen = self._receivers(receivers)
        forced = self._named(self.buses, "bus", bus) if bus is not None else None
        return Worker(
            chosen,
            lambda envelope: self._dispatch_received(envelope, forced),
            self.settler,
            self.events,
            options or WorkerOptions(),
            is_async=lambda envelope: self._bus_of(envelope, forced).locator.needs_loop(type(envelope.message)),
        )

    def consume(
        self,
        receivers: Sequence[str] = (),
        options: WorkerOptions | None = None,
        *,
        bus: str | None = None,
        limits: Limits | None = None,
        processes: int | None = None,
        app: str | None = None,
        life_line: LifeLine | None = None,
    ) -> None:
        """Consume until a limit is reached, or a signal or ``stop_workers`` asks to stop. Blocks.

        Call it from the main thread.

        Args:
            receivers: names of transports; without names, the only one there is.
            options: how each worker works.
            bus: the bus for every message, instead of the one that the message names.
            limits: when it ends; with ``processes`` the time is that of all, the others are those of each.
            processes: consume in so many processes, and replace those that die; None: in this one.
            app: ``module:name`` of a messenger, or of a function that makes one: what those processes consume with.
            life_line: where this is such a process.

        Raises:
            ConfigurationError: a name does not exist, or ``processes`` is given without an ``app``.
            AccessDeniedError: a server refuses the credentials at the start.
            WorkerProcessesError: the processes cannot start, keep dying, or did not stop in time.
        """
        options = options or WorkerOptions()
        if processes is None:
            worker = self.worker(receivers, options, bus=bus)
            with self._serving_handlers():
                consume(worker, options.shutdown_timeout, limits, lambda: stop_requests(self.store), life_line)
            return
        if app is None:
            raise ConfigurationError(
                f"consume(processes={processes}) starts processes that need a messenger of their own: "
                'say with app="module:name" where a function that makes it, or the messenger itself, can be imported.'
            )
        names = [each.name for each in self._receivers(receivers)]
        supervise(
            consume_command(names, options, bus=bus, limits=limits, global_options=(f"--app={app}",)),
            processes,
            shutdown_timeout=options.shutdown_timeout,
            time_limit=limits.seconds if limits is not None else None,
        )

    def stop_workers(self) -> bool:
        """Ask every worker that runs now and shares the store to stop, within 5 s, when it has finished its handlers.

        False: the store is shared with nobody, so only this user's workers on this host were asked.

        Raises:
            TransportError: the store cannot be reached.
            ConfigurationError: somebody else holds the folder where the workers of this host look.
        """
        requests = stop_requests(self.store)
        requests.leave()
        return requests.reaches_other_hosts

    def stats(self, names: Sequence[str] = ()) -> list[TransportStats]:
        """Count the messages of these transports, or of all of them."""
        return [TransportStats(each.name, each.counts()) for each in self._chosen(names)]

    def set_up(self, names: Sequence[str] = ()) -> dict[str, bool]:
        """Create what these transports need on their servers, or all of them; False: nothing to set up there.

        Without names also the tables of the stores and outboxes that the configuration names, as "store DSN" and
        "outbox PATH".
        """
        done = {each.name: each.set_up() for each in self._chosen(names)}
        for name, each in self._beside(names).items():
            each.set_up()
            done[name] = True
        return done

    def check(self, names: Sequence[str] = ()) -> dict[str, Sequence[str] | None]:
        """Return what ``set_up`` would create, one sentence each; None: nothing to set up there. Changes nothing."""
        missing: dict[str, Sequence[str] | None] = {each.name: each.check() for each in self._chosen(names)}
        return {**missing, **{name: each.check() for name, each in self._beside(names).items()}}

    def ddl(self, names: Sequence[str] = ()) -> dict[str, Sequence[str] | None]:
        """Return the SQL statements that ``set_up`` would execute now; None: it executes none there. Changes nothing.

        What another transport of the same table needs too is named with the first one only.
        """
        found: dict[str, Sequence[str] | None] = {each.name: each.ddl() for each in self._chosen(names)}
        for name, each in self._beside(names).items():
            found[name] = each.ddl() if isinstance(each, SetsUpBySql) else None
        named: set[str] = set()
        for name, statements in found.items():
            if statements is not None:
                found[name] = [each for each in statements if each not in named]
                named.update(statements)
        return found

    def failed(self, names: Sequence[str] = ()) -> FailedMessages:
        """Return the failed messages in these failure transports, or in all of them, to be shown, retried or removed.

        Raises:
            ConfigurationError: a name does not exist.
        """
        every = sorted({name for name in self.failure_transports.values() if name is not None})
        return FailedMessages(
            [self.transport(name) for name in names or every],
            self.transports,
            self.types,
            self.settler,
            lambda envelope: self._dispatch_received(envelope, None),
        )

    def transport(self, name: str) -> Transport:
        """Return a transport by name.

        Raises:
            ConfigurationError: it does not exist.
        """
        return self._named(self.transports, "transport", name)

    def close(self) -> None:
        """Stop relaying outboxes; close every transport and every store, also when one cannot be closed. Idempotent."""
        with ExitStack() as closing:  # the last one first
            closing.callback(self._stores.close)
            for close in self._closing:
                closing.callback(close)
            for transport in self.transports.values():
                closing.callback(transport.close)
            closing.callback(self._outboxes.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _serving_handlers(self) -> Iterator[None]:
        """Have ``bus.dispatch`` in handlers use this messenger, unless the program has loaded a default one."""
        before, Messenger.consuming = Messenger.consuming, self
        try:
            yield
        finally:
            Messenger.consuming = before

    def _receivers(self, names: Sequence[str]) -> list[Transport]:
        if not names and len(self.transports) != 1:
            raise ConfigurationError(f"name the transports to consume; valid ones are {quoted(self.transports)}")
        return self._chosen(names)

    def _beside(self, names: Sequence[str]) -> Mapping[str, SetsUp]:
        """Return the stores and outboxes, unless only some transports are meant."""
        return {} if names else {**self._stores.to_set_up(), **self._outboxes.to_set_up()}

    def _chosen(self, names: Sequence[str]) -> list[Transport]:
        return [self.transport(name) for name in dict.fromkeys(names or self.transports)]

    @staticmethod
    def _named(valid: Mapping[str, T], kind: str, name: str) -> T:
        try:
            return valid[name]
        except KeyError:
            raise ConfigurationError(
                f'there is no {kind} "{name}"; valid ones are {quoted(valid)}{did_you_mean(name, valid)}'
            ) from None

    def _bus_of(self, envelope: Envelope, forced: MessageBus | None) -> MessageBus:
        if forced is not None:
            return forced
        stamp = envelope.last(BusNameStamp)
        return self.buses.get(stamp.bus_name, self.bus) if stamp is not None else self.bus

    def _dispatch_received(self, envelope: Envelope, forced: MessageBus | None) -> Envelope:
        stamp = envelope.last(BusNameStamp)
        if forced is None and stamp is not None and stamp.bus_name not in self.buses:
            return self._give_up_without_bus(envelope, stamp.bus_name)
        return self._bus_of(envelope, forced).dispatch(envelope)

    def _give_up_without_bus(self, envelope: Envelope, bus_name: str) -> Envelope:
        """No bus, so no stack that could decide: the message goes where failed ones go, or the worker logs it."""
        error = UnrecoverableError(
            f'The message names the bus "{bus_name}", which does not exist here; '
            f"valid buses are {quoted(self.buses)} (bus consume --bus chooses one)"
        )
        received = envelope.last(ReceivedStamp)
        name = received.transport_name if received is not None else ""
        if name in self.failure_transports.values():
            return envelope.with_(ParkDecisionStamp(error))
        target = self.failure_transports.get(name)
        if target is None:
            raise error
        return envelope.with_(FailureDecisionStamp(target, error))
