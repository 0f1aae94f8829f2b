"""Checks what single values cannot show: names that must exist, circles, and rules between keys."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator

from bus.config.nodes import below, is_name, listed, shown, suggestion
from bus.config.schema import MessengerConfig, TransportConfig
from bus.errors import ConfigurationError
from bus.transports.dsn import Dsn

_DSN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.*")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

# Each transport of these is a store of its own, even where the DSN is the same.
_IN_PROCESS = ("in-memory:", "sync:")

_NAMES_CONNECTION = ("doctrine", "sql")
_SQL = ("doctrine", "mariadb", "mysql", "postgres", "postgresql", "sql", "sqlite")
# The options of these that tell one queue from another, and what they are where nothing is said.
_SQL_QUEUE = {"table_name": "messenger_messages", "queue_name": "default"}

Problem = tuple[str, str]  # path and sentence


def check(
    config: MessengerConfig, value_at: Callable[[str, str], str] = lambda _, text: shown(text)
) -> Iterator[Problem]:
    """Yield the path and the sentence of every problem of a configuration, whether YAML or Python made it.

    ``value_at`` says how the text at a path is shown.
    """
    yield from _names(config)
    yield from _imports(config, value_at)
    yield from _buses(config, value_at)
    yield from _transports(config, value_at)
    yield from _failure_transports(config, value_at)
    yield from _routing(config, value_at)


def routing_notes(config: MessengerConfig, known: Iterable[str]) -> tuple[str, ...]:
    """Return a line, with its position, for each routing key that no message has.

    ``known`` are the names of the messages that are here. Such a key may belong to a PHP application that shares the
    file. A dotted path without a wildcard is not looked at: one that does not exist is an error of its own.
    """
    names = tuple(known)
    lines = []
    for key in config.routing:
        namespace = key.removesuffix("*")
        if key == "*" or (namespace == key and "\\" not in key):
            continue
        if not any(name == key or (namespace != key and name.startswith(namespace)) for name in names):
            where = config.locations.get(below("routing", key), config.source or "")
            lines.append(f"{where} {below('routing', key)}: no message here has this name".lstrip())
    return tuple(lines)


def _names(config: MessengerConfig) -> Iterator[Problem]:
    """Yield keys that look like anything but a name, such as a DSN: they would stand in logs and messages."""
    named: dict[str, Iterable[str]] = {
        "buses": config.buses,
        "transports": config.transports,
        "routing": config.routing,
        "aliases": config.aliases,
        "connections": config.connections,
        "rate_limiter": config.rate_limiters,
    }
    for path, names in named.items():
        for name in names:
            if not is_name(name):
                yield below(path, name), "this does not look like a name; placeholders are only replaced in values"
    for alias, target in config.aliases.items():
        if not is_name(target):
            yield below("aliases", alias), 'expected the name of a message, or "module:factory"'


def _imports(config: MessengerConfig, value_at: Callable[[str, str], str]) -> Iterator[Problem]:
    if isinstance(config.imports, str):
        yield "imports", f"expected a tuple of modules, such as ({shown(config.imports)},)"
        return
    for position, name in enumerate(config.imports):
        path = _place("imports", position, config)
        if not _MODULE.fullmatch(name):
            written = value_at(path, name)
            module = name.removesuffix(".py").strip("./").replace("/", ".")
            # Never a hint that shows what a variable gave.
            hint = f'; write "{module}"' if _MODULE.fullmatch(module) and written == f'"{name}"' else ""
            yield path, f'{written} is no module, such as "shop.handlers"{hint}'


def _buses(config: MessengerConfig, value_at: Callable[[str, str], str]) -> Iterator[Problem]:
    names = config.buses or ("messenger.bus.default",)
    if config.default_bus is None and len(names) > 1:
        yield "default_bus", f"with more than one bus it must be named here (buses are {listed(names)})"
    if config.default_bus is not None and config.default_bus not in names:
        yield (
            "default_bus",
            f"there is no bus {value_at('default_bus', config.default_bus)}"
            + _or_valid(config.default_bus, names, "buses"),
        )


def _transports(config: MessengerConfig, value_at: Callable[[str, str], str]) -> Iterator[Problem]:
    for name, transport in config.transports.items():
        # An empty DSN was reported when it was read.
        if transport.dsn and not _DSN.fullmatch(transport.dsn):
            yield (
                below(below("transports", name), "dsn"),
                'expected a DSN, one line that begins with a scheme, such as "doctrine://default" or "sync://"',
            )

        if transport.max_deliveries < 1:
            yield below(below("transports", name), "max_deliveries"), "expected a whole number from 1"
        yield from _limiter_of(name, transport.rate_limiter, config, value_at)


def _limiter_of(
    transport: str, limiter: str | None, config: MessengerConfig, value_at: Callable[[str, str], str]
) -> Iterator[Problem]:
    # One that is there and wrong was reported when it was read.
    if limiter is None or limiter in config.rate_limiters or below("rate_limiter", limiter) in config.locations:
        return
    place = below(below("transports", transport), "rate_limiter")
    known = _or_valid(limiter, config.rate_limiters, "rate limiters")
    yield place, f"there is no rate limiter {value_at(place, limiter)}{known}"


def _failure_transports(config: MessengerConfig, value_at: Callable[[str, str], str]) -> Iterator[Problem]:
    named = {"failure_transport": config.failure_transport}
    for name, transport in config.transports.items():
        named[below(below("transports", name), "failure_transport")] = transport.failure_transport
    for path, target in named.items():
        if target is None:
            continue
        if target not in config.transports:
            yield (
                path,
                f"there is no transport {value_at(path, target)}" + _or_valid(target, config.transports, "transports"),
            )
        elif config.transports[target].dsn.startswith("sync:"):
            yield path, f"{value_at(path, target)} is a sync:// transport, which keeps no messages"
    yield from _circles(config)
    yield from _shared_queues(config)


def _shared_queues(config: MessengerConfig) -> Iterator[Problem]:
    for name, transport in config.transports.items():
        target = config.failure_transport_of(name)
        other = config.transports.get(target) if target is not None and target != name else None
        if other is None or transport.dsn == "" or transport.dsn.startswith(_IN_PROCESS):
            continue
        if _queue_of(transport, config) == _queue_of(other, config):
            yield below("transports", name), f"it is the same queue as its failure transport {shown(target or name)}"


def _queue_of(transport: TransportConfig, config: MessengerConfig) -> tuple[object, ...]:
    """Return what only transports of one queue have in common, however they name their database."""
    try:
        dsn = Dsn.parse(transport.dsn)
        options = {**_SQL_QUEUE, **transport.options, **dsn.query}
        if dsn.scheme in _NAMES_CONNECTION:
            name = ",".join(each.name for each in dsn.hosts) or "default"
            dsn = Dsn.parse(config.connections.get(name, transport.dsn))
    except ConfigurationError:  # told where the transport is built
        return transport.dsn, transport.options
    path = os.path.realpath(dsn.path.removeprefix("/")) if dsn.scheme == "sqlite" else dsn.path
    if dsn.scheme in _SQL:
        options = {name: options[name] for name in _SQL_QUEUE}
    return dsn.scheme, dsn.hosts, path, options


def _circles(config: MessengerConfig) -> Iterator[Problem]:
    """Yield each circle of failure transports once, at the first transport of it that the file has."""
    reported: set[str] = set()
    for start in config.transports:
        walked: list[str] = []
        name: str | None = start
        while name is not None and name in config.transports and name not in walked:
            walked.append(name)
            name = config.failure_transport_of(name)
        if name in walked and not reported.intersection(walked):
            circle = walked[walked.index(name) :]
            reported.update(walked)
            shape = " -> ".join(shown(each) for each in [*circle, circle[0]])
            own = next(each for each in circle if config.transports[each].failure_transport is not None)
            path = below(below("transports", own), "failure_transport")
            yield path, f"failure transports form a circle: {shape}"


def _routing(config: MessengerConfig, value_at: Callable[[str, str], str]) -> Iterator[Problem]:
    for key, senders in config.routing.items():
        path = below("routing", key)
        if "*" in key and key != "*" and not re.fullmatch(r"[^*]+[.\\]\*", key):
            yield path, 'a "*" stands alone or at the end of a namespace, as in "shop.events.*"'
        elif key.startswith("\\"):
            yield path, "leave out the backslash at the beginning"
        if isinstance(senders, str):
            yield path, f"expected a tuple of transports, such as ({shown(senders)},)"
            continue
        # An empty list in the file was reported when it was read.
        if not senders and below(path, "senders") not in config.locations:
            yield path, "it names no transport"
        for position, name in enumerate(senders):
            if name not in config.transports:
                place = _place(below(path, "senders"), position, config)
                yield (
                    place,
                    f"there is no transport {value_at(place, name)}" + _or_valid(name, config.transports, "transports"),
                )


def _place(path: str, position: int, config: MessengerConfig) -> str:
    """Return the path of an item of a list, or of the single value that stands for the list in the file."""
    item = below(path, position)
    return path if path in config.locations and item not in config.locations else item


def _or_valid(name: str, valid: Iterable[str], kind: str) -> str:
    names = list(valid)
    return suggestion(name, names) or f"; {kind} are {listed(names)}"
