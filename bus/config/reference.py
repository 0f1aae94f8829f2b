"""The reference of the configuration as Markdown; made of the grammar and of the options of the transports.

``docs/configuration-reference.md`` is what ``reference()`` returns; a test keeps it so.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Final

from bus.config.grammar import ARGUMENTS, MESSENGER
from bus.config.keys import Decimal, Duration, Flag, Free, Keys, ListOf, MapOf, Spec, Text, Whole
from bus.transports.registry import options_by_scheme

_HEAD: Final = """\
# Configuration reference

Every key of `messenger.yaml`, and every option of a transport. This page is what `bus config reference` prints: it is
made of the description by which the file is validated. [Configuration](configuration.md) explains how it all belongs
together.

Keys that are marked *ours* are not Symfony's; those marked *Symfony's* are read, so that its files load, and mean
nothing here. Symfony's options keep Symfony's units. Without a default, a key is not set. Any value may come from the
[environment](configuration.md#values-from-the-environment).
"""
_ARGUMENTS_HEAD: Final = """\
## Arguments of middleware

Those that come with the bus, written as `{name: {argument: value}}` in the list `middleware`. Without arguments, the
name is enough.
"""
_OPTIONS_HEAD: Final = """\
## Options of transports

They stand in the query of the DSN (`?name=value`) or under `options:` of the transport; the DSN wins. An unknown one
is an error. `sync://` has none.
"""
_UNITS: Final = {"ms": "milliseconds"}
_TYPES: Final[Mapping[object, str]] = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def reference() -> str:
    """Return the whole page."""
    parts = [_HEAD, *_sections("## messenger", MESSENGER, "")]
    parts.append(_ARGUMENTS_HEAD)
    for name, described in ARGUMENTS.items():
        parts += _sections(f"### {name}", described, "")
    parts.append(_OPTIONS_HEAD)
    for schemes, options in options_by_scheme().items():
        title = ", ".join(f"`{scheme}://`" for scheme in schemes)
        parts.append(options_table(f"### {title}", options))
    return "\n".join(parts)


# --- the grammar ---


def _sections(heading: str, spec: Keys, path: str) -> Iterator[str]:
    """Yield the table of a map with fixed keys, and then those of the maps in it."""
    rows = [
        (f"`{key}`", _value(each, _below(path, key)), _default(getattr(each, "default", None)), _text(each.doc))
        for key, each in spec.keys.items()
    ]
    yield f"{heading}\n\n{_text(spec.doc)}\n" + (f"\n{_table('Key', rows)}" if rows else "\nThere are none.\n")
    for key, each in spec.keys.items():
        inner, place = _inner(each, _below(path, key))
        if inner is not None:
            yield from _sections(f"## {place}", inner, place)


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _inner(spec: Spec, path: str) -> tuple[Keys | None, str]:
    """Return the map with fixed keys that a value is or contains, and its place."""
    match spec:
        case Keys():
            return spec, path
        case ListOf(item=Keys() as item):
            return item, path
        case MapOf(item=Keys() as item):
            return item, f"{path}.NAME"
    return None, path


def _value(spec: Spec, path: str) -> str:
    match spec:
        case Keys():
            forms = [_value(form, path) for form in spec.short.forms] if spec.short else []
            return " or ".join(dict.fromkeys([*forms, _link("map", path)]))
        case MapOf(item=Keys()):
            return _link("map by name", f"{path}.NAME")
        case MapOf(item=Free()):
            return "map by name"
        case MapOf(item=item):
            return f"map by name: {_value(item, path)}"
        case ListOf(item=item, or_one=or_one):
            return f"list: {_value(item, path)}" + (", or a single one" if or_one else "")
        case Free(collection=collection):
            return "list or map" if collection else "anything"
        case Text(choices=choices, or_null=or_null):
            return _choices(choices) if choices else "text or null" if or_null else "text"
        case Whole(minimum=minimum, unit=unit):
            return _range(_UNITS[unit] if unit else "whole number", minimum, None)
        case Decimal(minimum=minimum, maximum=maximum):
            return _range("number", minimum, maximum)
        case Flag():
            return _TYPES[bool]
        case Duration():
            return "duration with its unit, such as `24h`"
    raise TypeError(f"no words for {spec}")


def _range(kind: str, minimum: float | None, maximum: float | None) -> str:
    if minimum is None:
        return kind
    return f"{kind}, {minimum} or more" if maximum is None else f"{kind} from {minimum} to {maximum}"


def _choices(names: Sequence[object]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# --- the options of a transport ---


def options_table(heading: str, options: type) -> str:
    """Return the table of a dataclass of options.

    Raises:
        TypeError: its docstring leaves an attribute out.
    """
    hints, meanings = typing.get_type_hints(options), _meanings(options)
    rows = [
        (f"`{each.name}`", _kind(hints[each.name]), _default_of(each), _text(meanings[each.name]))
        for each in fields(options)
    ]
    return f"{heading}\n\n{_table('Option', rows)}"


def _meanings(options: type) -> Mapping[str, str]:
    """Return what the docstring of a class says about each attribute.

    Raises:
        TypeError: it leaves one out.
    """
    meanings: dict[str, str] = {}
    for cls in reversed(options.__mro__):
        _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
        entries = re.findall(r"^(\w+): (.*(?:\n+ .*)*)", textwrap.dedent(attributes), re.MULTILINE)
        meanings |= {name: " ".join(text.split()) for name, text in entries}
    missing = [each.name for each in fields(options) if each.name not in meanings]
    if missing:
        raise TypeError(f'the docstring of "{options.__qualname__}" has no line under "Attributes:" for {missing}')
    return {name: text[:1].upper() + text[1:] for name, text in meanings.items()}


def _kind(hint: object) -> str:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return " or ".join(_kind(each) for each in typing.get_args(hint) if each is not types.NoneType)
    if (isinstance(origin, type) and issubclass(origin, Mapping)) or is_dataclass(hint):
        return "map"
    return _TYPES[hint]


def _default_of(field: Field[object]) -> str:
    return "required" if field.default is MISSING and field.default_factory is MISSING else _default(field.default)


# --- Markdown ---


def _table(first: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [(first, "Value", "Default", "Meaning"), ("---",) * 4, *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _default(value: object) -> str:
    """Return a default as YAML writes it; empty where there is none."""
    return (
        f"`{value if isinstance(value, str) else json.dumps(value)}`"
        if isinstance(value, bool | int | float | str)
        else ""
    )


def _link(text: str, heading: str) -> str:
    return f"[{text}](#{heading.replace('.', '').lower()})"


def _text(sentence: str) -> str:
    """Return a sentence with nothing in it that Markdown would take for its own."""
    plain = re.sub(r"([*|<])", r"\\\1", sentence.replace("``", "`"))
    return re.sub(r"^(Ours|Symfony's)(?=[:;])", r"*\1*", plain)
