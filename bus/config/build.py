"""Builds the parts of a messenger from its configuration: the only place that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bus.clock import Clock, SystemClock
from bus.config.checks import check
from bus.config.discovery import Discovered, discover, import_module, import_object
from bus.config.handler_middleware import has_transaction
from bus.config.nodes import below
from bus.config.schema import BusConfig, MessengerConfig, TransportConfig
from bus.config.stack import build_bus
from bus.config.wiring import Wiring
from bus.envelope import Envelope
from bus.errors import ConfigurationError, describe, did_you_mean
from bus.events import Events, WorkerStarted
from bus.handler_arguments import Container
from bus.handlers import HandlerDescriptor, HandlersLocator
from bus.handlers import describe as describe_handlers
from bus.message_bus import MessageBus
from bus.messages import MessageTypes
from bus.outbox.outboxes import Outboxes
from bus.rate_limit import RateLimiter
from bus.redispatch import RedispatchHandler
from bus.retry import RetryStrategy
from bus.routing import Routing
from bus.serializer import JsonSerializer, Serializer
from bus.settlement import Settler
from bus.store.ownership import Ownership
from bus.store.registry import StoreFactory, Stores
from bus.transports.dsn import Dsn
from bus.transports.registry import DriverContext, create_driver
from bus.transports.sync import SyncTransport
from bus.transports.transport import Transport

DEFAULT_BUS = "messenger.bus.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything a messenger consists of."""

    types: MessageTypes
    handlers: tuple[HandlerDescriptor, ...]
    routing: Routing
    buses: Mapping[str, MessageBus]
    default_bus: str
    transports: Mapping[str, Transport]
    failure_transports: Mapping[str, str | None]
    events: Events
    settler: Settler
    stores: Stores
    outboxes: Outboxes
    closing: Sequence[Callable[[], None]]


class _Builder:
    """Builds part after part and collects what is wrong with each, so that one run shows every problem."""

    def __init__(self, config: MessengerConfig, container: Container | None, clock: Clock) -> None:
        self._config = config
        self._container = container
        self._clock = clock
        self._problems: list[str] = []

    def build(self, imports: Iterable[str], targets: Iterable[Any]) -> Parts:
        for path, problem in check(self._config):
            self._problem(path, problem)
        self._stop_at_problems()
        found = self._discover(imports)
        handlers = self._handlers([*found.handlers, *targets])
        types = self._types(found, handlers)
        routing = self._routing(types)
        context = self._driver_context()
        stores = self._stores(context)
        self._stop_at_problems()
        assert stores is not None
        outboxes = Outboxes(context, stores)
        context = replace(context, store=lambda: stores.of(None))
        transports = self._transports(found, types, context, outboxes)
        self._limit_rates(transports, stores)
        given_up_to = {name: self._config.failure_transport_of(name) for name in self._config.transports}
        wiring = Wiring(
            routing=routing,
            transports=transports,
            failure_transports=given_up_to,
            strategies={name: self._strategy(name, each) for name, each in self._config.transports.items()},
            aliases=self._config.aliases,
            container=self._container,
            stores=stores,
            outboxes=outboxes,
        )
        configured = self._config.buses or {DEFAULT_BUS: BusConfig()}
        buses = {name: self._bus(name, each, handlers, wiring) for name, each in configured.items()}
        self._check_buses_of(handlers, configured)
        self._stop_at_problems()
        events = Events()
        events.on(WorkerStarted, lambda _: outboxes.start())
        real = {name: each for name, each in transports.items() if isinstance(each, Transport)}
        return Parts(
            types=types,
            handlers=tuple(handlers),
            routing=routing,
            buses={name: each for name, each in buses.items() if each is not None},
            default_bus=self._config.default_bus or next(iter(configured)),
            transports=real,
            failure_transports=given_up_to,
            events=events,
            settler=Settler(real, given_up_to, events),
            stores=stores,
            outboxes=outboxes,
            closing=wiring.closing,
        )

    def _driver_context(self) -> DriverContext:
        plain = DriverContext(connections=self._config.connections, clock=self._clock)

        def ownership(dsn: str | Dsn, queue: str) -> Ownership:
            return Ownership(StoreFactory(dsn, plain).get(), queue)

        return replace(plain, ownership=ownership)

    def _discover(self, imports: Iterable[str]) -> Discovered:
        modules = [import_module("__main__")]
        for position, name in enumerate(self._config.imports):
            with self._collecting(below("imports", position)):
                modules.append(import_module(name))
        for name in imports:
            with self._collecting("imports"):
                modules.append(import_module(name))
        return discover(modules)

    def _handlers(self, targets: Iterable[Any]) -> list[HandlerDescriptor]:
        handlers: dict[str, HandlerDescriptor] = {}
        # A handler of __main__ that is also given as an argument is one handler.
        for target in {id(each): each for each in targets}.values():
            with self._collecting("imports"):
                for handler in describe_handlers(target, self._container):
                    if handler.name in handlers:
                        raise ConfigurationError(
                            f'two handlers are called "{handler.name}"; give one of them @handler(alias="...")'
                        )
                    handlers[handler.name] = handler
        return list(handlers.values())

    def _types(self, found: Discovered, handlers: Iterable[HandlerDescriptor]) -> MessageTypes:
        types = MessageTypes()
        for cls in [*found.messages, *(cls for handler in handlers for cls in handler.handles)]:
            with self._collecting("imports"):
                types.add(cls)
        for alias, target in self._config.aliases.items():
            # An alias that leads to code ("module:factory") is a service id of a PHP configuration.
            if ":" not in target:
                with self._collecting(below("aliases", alias)):
                    types.add_alias(alias, target)
        return types

    def _routing(self, types: MessageTypes) -> Routing:
        def resolve(key: str) -> type | None:
            known = types.by_name(key)
            if known is not None or "\\" in key:
                return known
            with self._collecting(below("routing", key)):
                cls = import_object(key)
                if not isinstance(cls, type):
                    raise ConfigurationError(f'"{key}" is no class')
                types.add(cls)
                return cls
            return None

        return Routing(self._config.routing, types, resolve)

    def _stores(self, context: DriverContext) -> Stores | None:
        with self._collecting("store"):
            return Stores(self._config.store, context)
        return None

    def _transports(
        self, found: Discovered, types: MessageTypes, context: DriverContext, outboxes: Outboxes
    ) -> dict[str, Transport | SyncTransport]:
        default = JsonSerializer(types, found.stamps)
        transports: dict[str, Transport | SyncTransport] = {}
        for name, config in self._config.transports.items():
            with self._collecting(below("transports", name)):
                if Dsn.parse(config.dsn).scheme == "sync":
                    transports[name] = SyncTransport(name)
                    continue
                serializer = self._serializer(config.serializer or self._config.serializer, types) or default
                driver = create_driver(name, config.dsn, config.options, context)
                outbox = outboxes.at(f'Transport "{name}"', config.outbox)[1] if config.outbox is not None else None
                transports[name] = outboxes.carriers[name] = Transport(
                    name, driver, serializer, max_deliveries=config.max_deliveries, clock=self._clock, outbox=outbox
                )
        return transports

    def _limit_rates(self, transports: Mapping[str, Transport | SyncTransport], stores: Stores) -> None:
        for name, transport in transports.items():
            limiter = self._config.transports[name].rate_limiter
            if limiter is not None and isinstance(transport, Transport):
                limit = self._config.rate_limiters[limiter]
                if limit.policy != "no_limit":
                    transport.rate_limiter = RateLimiter(limiter, limit, stores.shared.get, self._clock)

    def _serializer(self, name: str | None, types: MessageTypes) -> Serializer | None:
        if name in (None, "json"):
            return None
        serializer: Serializer = self._from_factory(str(name), types)
        return serializer

    def _strategy(self, name: str, config: TransportConfig) -> RetryStrategy:
        if config.retry_service is None:
            return config.retry
        with self._collecting(below(below("transports", name), "retry_strategy.service")):
            strategy: RetryStrategy = self._from_factory(config.retry_service)
            return strategy
        return config.retry

    def _from_factory(self, path: str, *arguments: object) -> Any:
        path = self._config.aliases.get(path, path)
        factory = import_object(path)
        try:
            return factory(*arguments)
        except Exception as error:
            raise ConfigurationError(f'"{path}" cannot be built: {describe(error)}') from error

    def _bus(
        self, name: str, config: BusConfig, handlers: Iterable[HandlerDescriptor], wiring: Wiring
    ) -> MessageBus | None:
        with self._collecting(below(below("buses", name), "middleware")):

            def dispatch(envelope: Envelope) -> Envelope:
                return bus.dispatch(envelope)

            ours = describe_handlers(RedispatchHandler(dispatch))
            bus = build_bus(name, config, HandlersLocator([*handlers, *ours], name), wiring)
            return bus
        return None

    def _check_buses_of(self, handlers: Iterable[HandlerDescriptor], buses: Mapping[str, BusConfig]) -> None:
        for handler in handlers:
            options = handler.options
            with self._collecting("imports"):
                _must_exist("bus", options.bus, buses, handler.name)
            with self._collecting("imports"):
                _must_exist("transport", options.from_transport, self._config.transports, handler.name)
            with self._collecting("imports"):
                _must_be_given(handler, [each for name, each in buses.items() if options.bus in (None, name)])

    @contextmanager
    def _collecting(self, path: str) -> Iterator[None]:
        try:
            yield
        except ConfigurationError as error:
            for problem in error.problems:
                self._problem(path, problem)

    def _problem(self, path: str, problem: str) -> None:
        where = self._config.locations.get(path) or self._config.source
        self._problems.append(f"{where} {path}: {problem}" if where else f"{path}: {problem}")

    def _stop_at_problems(self) -> None:
        if self._problems:
            raise ConfigurationError(*dict.fromkeys(self._problems))


def _must_exist(kind: str, name: str | None, valid: Mapping[str, object], handler: str) -> None:
    if name is not None and name not in valid:
        raise ConfigurationError(
            f'the handler "{handler}" names the {kind} "{name}", which does not exist{did_you_mean(name, valid)}'
        )


def _must_be_given(handler: HandlerDescriptor, buses: Iterable[BusConfig]) -> None:
    """Raise where a handler asks for a session or a connection and none of its buses has a transaction."""
    if handler.arguments.resources and not any(has_transaction(each) for each in buses):
        raise ConfigurationError(
            f'nothing can fill the parameter "{handler.arguments.resources[0]}" of handler "{handler.name}"; '
            'the middleware "transaction" of its bus would do so'
        )


def build(
    config: MessengerConfig,
    *,
    imports: Iterable[str] = (),
    handlers: Iterable[Callable[..., Any]] = (),
    container: Container | None = None,
    clock: Clock | None = None,
) -> Parts:
    """Build the parts of a messenger. Nothing connects to a server yet.

    Raises:
        ConfigurationError: with every problem that was found, one line each.
    """
    return _Builder(config, container, clock or SystemClock()).build(imports, handlers)
