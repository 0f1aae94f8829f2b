"""Messages: how a class is marked, what it is called on the wire, and which types a messenger knows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, overload

from bus.errors import ConfigurationError, EncodingError, did_you_mean

T = TypeVar("T", bound=type)

MARK = "__bus_message__"


@dataclass(frozen=True, slots=True)
class MessageOptions:
    """What ``@message`` says of a class."""

    name: str | None = None
    aliases: tuple[str, ...] = ()
    transport: tuple[str, ...] = ()
    partition_key: str | None = None
    rename: Literal["camel"] | None = None


_NO_OPTIONS = MessageOptions()


@dataclass(frozen=True, slots=True)
class UndecodableMessage:
    """Bytes and headers from the wire that no known type could be made of, kept as they came."""

    body: bytes
    headers: Mapping[str, str]
    reason: str


@overload
def message(name: T, /) -> T: ...
@overload
def message(
    name: str | None = None,
    *,
    aliases: str | Sequence[str] = (),
    transport: str | Sequence[str] = (),
    partition_key: str | None = None,
    rename: Literal["camel"] | None = None,
) -> Callable[[T], T]: ...
def message(
    name: T | str | None = None,
    *,
    aliases: str | Sequence[str] = (),
    transport: str | Sequence[str] = (),
    partition_key: str | None = None,
    rename: Literal["camel"] | None = None,
) -> T | Callable[[T], T]:
    """Mark a class as a message. It only marks: a messenger knows the class once its module stands under ``imports``.

    Args:
        name: the stable name on the wire, instead of ``module.QualName``; it may be a PHP class name.
        aliases: former or foreign names under which the message is read as well.
        transport: where the message goes when no routing rule matches.
        partition_key: the attribute whose value keeps messages in order.
        rename: ``"camel"`` writes and reads the fields in camelCase, as PHP names them.

    Raises:
        ConfigurationError: a name or option is not usable.
    """
    if isinstance(name, type):
        return _mark(name, MessageOptions())
    if name is not None:
        name = _checked_name(name)
    if rename not in (None, "camel"):
        raise ConfigurationError(f'@message(rename="{rename}") is not known; "camel" is')
    options = MessageOptions(
        name,
        tuple(_checked_name(alias) for alias in _as_tuple(aliases)),
        _as_tuple(transport),
        partition_key,
        rename,
    )
    return lambda cls: _mark(cls, options)


def _mark(cls: T, options: MessageOptions) -> T:
    if not isinstance(cls, type):
        raise ConfigurationError(f"@message stands above a class, not above {cls!r}")
    setattr(cls, MARK, options)
    return cls


def _as_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _checked_name(name: object) -> str:
    """Return the name without the leading backslash of PHP's fully qualified names."""
    text = name.removeprefix("\\") if isinstance(name, str) else ""
    # Symfony takes "[]" at the end for a list, which ends its worker; AMQP has room for 255 bytes.
    if not text or not text.isprintable() or text.endswith("[]") or len(text.encode()) > 255:
        raise ConfigurationError(
            f'@message({name!r}) is no name for a message; a name has 1 to 255 printable characters: "order.placed"'
        )
    return text


def options_of(cls: type) -> MessageOptions:
    """Return what ``@message`` says of exactly this class; a mark is not inherited."""
    options = cls.__dict__.get(MARK, _NO_OPTIONS)
    return options if isinstance(options, MessageOptions) else _NO_OPTIONS


def is_marked(cls: type) -> bool:
    """Tell whether this very class bears ``@message``."""
    return MARK in cls.__dict__


def wire_name(cls: type) -> str:
    """Return the name of a message type on the wire.

    Raises:
        EncodingError: a class of ``__main__`` that has neither a name nor an import path, or a local class.
    """
    name = options_of(cls).name
    if name is not None:
        return name
    module = cls.__module__
    if module == "__main__":
        module = main_module_name() or ""
    if not module or "<locals>" in cls.__qualname__:
        raise EncodingError(
            f'The message class "{cls.__qualname__}" cannot be found by name in another process; '
            'give it a stable one with @message("some.name").'
        )
    return f"{module}.{cls.__qualname__}"


def main_module_name() -> str | None:
    """Return the import path of the running ``__main__``, or None where it has none.

    That is the name given by ``python -m``, or the script's path below the working directory.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":  # a directory that is run has a spec without a real name
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if not file or not file.endswith(".py"):
        return None
    try:
        relative = Path(file).resolve().relative_to(Path.cwd().resolve())
    except (ValueError, OSError):
        return None
    parts = relative.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else None


class MessageTypes:
    """The message types that a messenger knows, by every name under which the wire may call them.

    A name from the wire is looked up here and never imported. Filled while the messenger is built; then read only.
    """

    def __init__(self, types: Iterable[type] = (), aliases: Mapping[str, str] | None = None) -> None:
        self._by_name: dict[str, type] = {}
        self._by_path: dict[str, type] = {}
        self._names: dict[type, str] = {}
        for cls in types:
            self.add(cls)
        for alias, name in (aliases or {}).items():
            self.add_alias(alias, name)

    def add(self, cls: type) -> None:
        """Make a type known under its wire name, its aliases and its Python path.

        A type that cannot be named is known for handling here and not for the wire.

        Raises:
            ConfigurationError: another type already has one of these names.
        """
        if cls in self._names:
            return
        try:
            name = wire_name(cls)
        except EncodingError:
            return
        for each in (name, *options_of(cls).aliases):
            self._claim(each, cls)
        self._names[cls] = name
        for path in _python_paths(cls):
            self._by_path.setdefault(path, cls)

    def add_alias(self, alias: str, name: str) -> None:
        """Let the wire call a known type by a further name.

        Raises:
            ConfigurationError: ``name`` is no known type, or ``alias`` is another's name.
        """
        cls = self.by_name(name)
        if cls is None:
            known = did_you_mean(name, self._by_name)
            raise ConfigurationError(f'The alias "{alias}" points to "{name}", which is no known message{known}')
        self._claim(alias.removeprefix("\\"), cls)

    def by_name(self, name: str) -> type | None:
        """Return the type of this wire name, alias or Python path, or None. A name that was given wins over a path."""
        name = name.removeprefix("\\")
        return self._by_name.get(name) or self._by_path.get(name)

    def name_of(self, cls: type) -> str:
        """Return the name of a type on the wire: the one that it is known by, or else its ``wire_name``.

        Raises:
            EncodingError: it has none.
        """
        return self._names.get(cls) or wire_name(cls)

    def names(self) -> tuple[str, ...]:
        """Return every known name, sorted."""
        return tuple(sorted({*self._by_name, *self._by_path}))

    def __iter__(self) -> Iterator[type]:
        return iter(self._names)

    def __contains__(self, cls: type) -> bool:
        return cls in self._names

    def _claim(self, name: str, cls: type) -> None:
        holder = self._by_name.setdefault(name, cls)
        if holder is cls:
            return
        paths = [f"{each.__module__}.{each.__qualname__}" for each in (holder, cls)]
        advice = 'give one of them another name with @message("...")'
        if "__main__" in (holder.__module__, cls.__module__) and holder.__qualname__ == cls.__qualname__:
            advice = (
                "the running file was imported a second time; import nothing from it, or move the class to a module"
            )
        raise ConfigurationError(f'The message name "{name}" stands for both "{paths[0]}" and "{paths[1]}"; {advice}.')


def _python_paths(cls: type) -> Iterator[str]:
    yield f"{cls.__module__}.{cls.__qualname__}"
    if cls.__module__ == "__main__" and (module := main_module_name()) is not None:
        yield f"{module}.{cls.__qualname__}"
