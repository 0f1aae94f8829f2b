"""Routing: which transports a message goes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bus.envelope import Envelope
from bus.errors import EncodingError
from bus.messages import MessageTypes, options_of, wire_name
from bus.redispatch import RedispatchMessage
from bus.stamps import TransportNamesStamp

# Turns a routing key into the class that it names, or None for a wildcard or a foreign name.
ResolveKey = Callable[[str], type | None]


class Routing:
    """The routing map. Thread-safe; a class is looked up once and remembered.

    All keys that name the class, a parent, a protocol or an ABC of it add up, without repeats. Only when none does, the
    most specific namespace wildcard counts, then ``*``, then ``@message(transport=...)``. A TransportNamesStamp on the
    message wins over all of it.
    """

    def __init__(self, routes: Mapping[str, tuple[str, ...]], types: MessageTypes, resolve: ResolveKey) -> None:
        self._routes = routes
        self._types = types
        self._resolved = {key: resolve(key) for key in routes if not key.endswith("*")}
        # A "*" does not mean what only tells this process where to send something else.
        self._by_class: dict[type, tuple[str, ...]] = {RedispatchMessage: ()}

    def of(self, envelope: Envelope) -> tuple[str, ...]:
        """Return the names of the transports that this message is sent to; empty: it is handled here."""
        chosen = envelope.last(TransportNamesStamp)
        if chosen is not None:
            return chosen.names
        cls = type(envelope.message)
        found = self._by_class.get(cls)
        if found is None:
            names = (name for _, transports in self.explain(cls) for name in transports)
            found = tuple(dict.fromkeys(names))
            self._by_class[cls] = found
        return found

    def explain(self, cls: type) -> list[tuple[str, tuple[str, ...]]]:
        """Return the rules that decide on a class, each with the transports that it adds."""
        named = [(key, self._routes[key]) for key in self._routes if self._names_class(key, cls)]
        if named:
            return [(f'routing key "{key}"', transports) for key, transports in named]
        wildcards = [key for key in self._routes if key.endswith("*") and self._covers(key, cls)]
        if wildcards:
            key = max(wildcards, key=len)
            return [(f'routing wildcard "{key}"', self._routes[key])]
        marked = options_of(cls).transport
        return [("@message(transport=...)", marked)] if marked else []

    def _names_class(self, key: str, cls: type) -> bool:
        if key.endswith("*"):
            return False
        resolved = self._resolved[key]
        if resolved is not None:
            return issubclass(cls, resolved)
        return any(key in names_of(base) for base in cls.__mro__[:-1])

    @staticmethod
    def _covers(key: str, cls: type) -> bool:
        prefix = key[:-1]
        return any(name.startswith(prefix) for name in names_of(cls))


def names_of(cls: type) -> Iterator[str]:
    """Return every name of a class: on the wire, its aliases, its Python path."""
    try:
        yield wire_name(cls)
    except EncodingError:
        pass  # a local class has no name on the wire; its Python path still serves routing in this process
    yield from options_of(cls).aliases
    yield f"{cls.__module__}.{cls.__qualname__}"
