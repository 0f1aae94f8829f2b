"""Says what a messenger consists of, and why a message goes where it goes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass

from bus.errors import ConfigurationError, did_you_mean, quoted
from bus.handlers import HandlerDescriptor
from bus.message_bus import MessageBus
from bus.messages import options_of
from bus.messenger import Messenger
from bus.middleware.handle import HandleMiddleware
from bus.redispatch import RedispatchMessage
from bus.routing import names_of


@dataclass(frozen=True, slots=True)
class HandlerDescription:
    """A handler: its name, and what its options say (``async``, ``priority 5`` ...)."""

    name: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MessageDescription:
    """A message type of a bus: its name on the wire, who handles it, where it is sent."""

    name: str
    handlers: tuple[HandlerDescription, ...]
    transports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BusDescription:
    """A bus: both stacks, outermost first, and its messages."""

    name: str
    is_default: bool
    middleware: tuple[str, ...]
    handler_middleware: tuple[str, ...]
    messages: tuple[MessageDescription, ...]


def describe_buses(messenger: Messenger, name: str | None = None) -> list[BusDescription]:
    """Describe one bus, or all of them.

    Raises:
        ConfigurationError: there is no such bus.
    """
    if name is not None and name not in messenger.buses:
        raise ConfigurationError(
            f'there is no bus "{name}"; valid ones are {quoted(messenger.buses)}{did_you_mean(name, messenger.buses)}'
        )
    chosen = [messenger.buses[name]] if name is not None else messenger.buses.values()
    return [_describe_bus(messenger, bus) for bus in chosen]


def explain(messenger: Messenger, type_name: str) -> list[str]:
    """Say in sentences where a message of this type goes, by which rule, and who handles it.

    Raises:
        ConfigurationError: no message is called so.
    """
    cls = messenger.types.by_name(type_name)
    if cls is None:
        valid = messenger.types.names()
        raise ConfigurationError(f'there is no message "{type_name}"{did_you_mean(type_name, valid)}')
    names = list(dict.fromkeys(names_of(cls)))
    lines = [f'"{names[0]}" is {cls.__module__}.{cls.__qualname__}']
    if len(names) > 1:
        lines.append(f"It is also known as {quoted(names[1:])}.")
    rules = messenger.routing.explain(cls)
    lines.extend(f"The {rule} sends it to {quoted(transports)}." for rule, transports in rules)
    if not rules:
        lines.append("No routing rule matches: it is handled where it is dispatched.")
    transports = dict.fromkeys(name for _, names in rules for name in names)
    lines.extend(_failure_sentence(messenger, name) for name in transports)
    for bus in messenger.buses.values():
        lines.extend(_handler_sentences(bus, cls))
    return lines


def _failure_sentence(messenger: Messenger, transport: str) -> str:
    if transport not in messenger.transports:
        return f'"{transport}" is sync: it handles the message at once.'
    target = messenger.failure_transports.get(transport)
    strategy = messenger.config.transports[transport]
    retries = strategy.retry_service or f"{strategy.retry.max_retries} retries"
    after = f'goes to "{target}"' if target else "is logged and dropped: there is no failure transport"
    return f'Consumed from "{transport}", it gets {retries}; after that it {after}.'


def _handler_sentences(bus: MessageBus, cls: type) -> Iterable[str]:
    handlers = bus.locator.of_type(cls)
    if not handlers:
        yield f'On bus "{bus.name}" nobody handles it.'
    for handler in handlers:
        notes = _handler_notes(handler)
        yield f'On bus "{bus.name}" it is handled by {handler.name}{" (" + ", ".join(notes) + ")" if notes else ""}.'


def _handler_notes(handler: HandlerDescriptor) -> tuple[str, ...]:
    notes = ["async"] if handler.is_async else []
    if handler.batch is not None:
        notes.append(f"batches of {handler.batch.size}")
    if handler.options.priority:
        notes.append(f"priority {handler.options.priority}")
    if handler.options.from_transport is not None:
        notes.append(f'from "{handler.options.from_transport}" only')
    return tuple(notes)


def _describe_bus(messenger: Messenger, bus: MessageBus) -> BusDescription:
    around_handler = [
        each for found in bus.middleware if isinstance(found, HandleMiddleware) for each in found.middleware
    ]
    types = {*messenger.types, *(cls for handler in bus.locator.descriptors for cls in handler.handles)}
    messages = []
    for cls in types - {RedispatchMessage}:
        handlers = bus.locator.of_type(cls)
        if not handlers and options_of(cls).name is None and inspect.isabstract(cls):
            continue
        descriptions = tuple(HandlerDescription(each.name, _handler_notes(each)) for each in handlers)
        transports = tuple(dict.fromkeys(name for _, names in messenger.routing.explain(cls) for name in names))
        messages.append(MessageDescription(next(iter(names_of(cls))), descriptions, transports))
    return BusDescription(
        bus.name,
        bus is messenger.bus,
        tuple(_name(each) for each in bus.middleware),
        (*(_name(each) for each in around_handler), "the handler"),
        tuple(sorted(messages, key=lambda each: each.name)),
    )


def _name(middleware: object) -> str:
    named = middleware if inspect.isroutine(middleware) else type(middleware)
    module = str(getattr(named, "__module__", ""))
    if module.startswith("bus.middleware."):
        return module.removeprefix("bus.middleware.")
    return f"{module}.{getattr(named, '__qualname__', named)}"
