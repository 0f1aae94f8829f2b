"""Checks nodes against the grammar and returns plain values: every problem is reported, none ends the reading."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from bus.config.keys import (
    Decimal,
    Duration,
    Flag,
    Free,
    Keys,
    ListOf,
    MapOf,
    Spec,
    Text,
    Whole,
    canonical,
)
from bus.config.nodes import Node, Report, Unknown, below, native, origin, shown, suggestion
from bus.durations import parse_duration
from bus.errors import ConfigurationError, quoted


class Unset(Enum):
    """Stands for a value that the file does not give, or does not give in a usable way. Defaults come last."""

    VALUE = "unset"


UNSET = Unset.VALUE

_FLAG_WORDS = {"true": True, "1": True, "false": False, "0": False}


def read(node: Node, spec: Spec, path: str, report: Report) -> Any:
    """Return the plain value of a node, or UNSET where it has none that can be used.

    A map comes back with exactly the keys that the file sets.
    """
    node = canonical(node, spec)
    report.place(path, node)
    if node.value is Unknown.VALUE:
        return UNSET
    value: Any
    match spec:
        case Keys():
            value = _keys(node, spec, path, report)
        case MapOf():
            value = _map(node, spec, path, report)
        case ListOf():
            value = _list(node, spec, path, report)
        case Free():
            value = _free(node, spec, path, report)
        case _:
            value = _scalar(node, spec, path, report)
    if spec.note is not None and value is not UNSET:
        sentence = spec.note(value)
        if sentence:
            report.note(path, sentence, node.start)
    return value


def _keys(node: Node, spec: Keys, path: str, report: Report) -> Mapping[str, Any] | Unset:
    if not isinstance(node.value, dict):
        return _wrong(node, spec, path, report)
    if spec.refine is not None:
        spec = spec.refine(node)
    values = {}
    for key, child in node.value.items():
        if key in spec.keys:
            values[key] = read(child, spec.keys[key], below(path, key), report)
        else:
            valid = f"; valid are {quoted(spec.keys)}" if spec.keys else "; there are none here"
            what = f"unknown key {shown(key)}{suggestion(key, spec.keys) or valid}"
            report.error(path, what, child.start)
    return {key: value for key, value in values.items() if value is not UNSET}


def _map(node: Node, spec: MapOf, path: str, report: Report) -> Mapping[str, Any] | Unset:
    if not isinstance(node.value, dict):
        return _wrong(node, spec, path, report)
    values = {}
    for key, child in node.value.items():
        if key == "":
            report.error(path, "a name must not be empty", child.start)
            continue
        value = read(child, spec.item, below(path, key), report)
        if value is UNSET and isinstance(spec.item, Keys):
            value = {}  # its name exists, whatever is wrong with it
        values[key] = value
    return {key: value for key, value in values.items() if value is not UNSET}


def _list(node: Node, spec: ListOf, path: str, report: Report) -> list[Any] | Unset:
    items = node.value
    if items is None or items == {}:
        items = []
    elif not isinstance(items, list):
        if not spec.or_one:
            return _wrong(node, spec, path, report)
        items = [node]
    if len(items) < spec.at_least:
        report.error(path, "the list must not be empty", node.mark)
    # A single value stands where the list would: its problems belong to the path of the list.
    single = len(items) == 1 and items[0] is node
    read_items = (
        read(each, spec.item, path if single else below(path, position), report) for position, each in enumerate(items)
    )
    return [each for each in read_items if each is not UNSET]


def _free(node: Node, spec: Free, path: str, report: Report) -> object:
    if spec.collection and not isinstance(node.value, list | dict | None):
        return _wrong(node, spec, path, report)
    return native(node)


def _scalar(node: Node, spec: Spec, path: str, report: Report) -> object:
    match spec:
        case Text():
            return _text(node, spec, path, report)
        case Duration():
            return _duration(node, spec, path, report)
        case Whole(minimum=minimum):
            number = _as_number(node)
            if isinstance(number, int) and _within(number, minimum, None):
                return number
        case Decimal(minimum=minimum, maximum=maximum):
            number = _as_number(node)
            if number is not None and _within(number, minimum, maximum):
                return float(number)
        case Flag():
            flag = _FLAG_WORDS.get(str(node.value).lower(), node.value) if node.untyped else node.value
            if isinstance(flag, bool):
                return flag
    return _wrong(node, spec, path, report)


def _text(node: Node, spec: Text, path: str, report: Report) -> str | Unset:
    if node.value is None and spec.or_null:
        return UNSET
    if node.value == "":
        report.error(path, f"{_subject(node)} must not be empty", node.mark)
        return UNSET
    if isinstance(node.value, str) and (not spec.choices or node.value in spec.choices):
        return node.value
    return _wrong(node, spec, path, report)


def _as_number(node: Node) -> int | float | None:
    """Return the number of a node; a text counts only where its notation cannot say that it is a number."""
    value: object = node.value
    if node.untyped and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        if value.is_integer():
            return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _within(value: float, minimum: float | None, maximum: float | None) -> bool:
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _duration(node: Node, spec: Duration, path: str, report: Report) -> str | Unset:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return _wrong(node, spec, path, report)
    try:
        parse_duration(str(value))
    except ConfigurationError as error:
        if node.variables:
            return _wrong(node, spec, path, report)
        report.error(path, str(error), node.mark)
        return UNSET
    return str(value)


def _wrong(node: Node, spec: Spec, path: str, report: Report) -> Unset:
    what = f"expected {expected(spec)}, but {_subject(node)} is {_given(node)}{_hint(node, spec)}"
    report.unusable(path, what, node.mark)
    return UNSET


def expected(spec: Spec) -> str:
    """Return in words what a value has to be."""
    match spec:
        case Text(choices=choices):
            return _either([f'"{each}"' for each in choices]) or "a text"
        case Whole(minimum=minimum, unit=unit):
            kind = {"ms": "a whole number of milliseconds"}.get(unit or "", "a whole number")
            return kind if minimum is None else f"{kind} from {minimum}"
        case Decimal(minimum=minimum, maximum=maximum):
            return f"a number from {minimum:g}" + ("" if maximum is None else f" to {maximum:g}")
        case Flag():
            return "true or false"
        case Duration():
            return 'a duration such as "500ms" or "24h"'
        case ListOf():
            return "a list"
        case Keys(short=short) if short is not None:
            return _either(list(dict.fromkeys([*map(expected, short.forms), "a map"])))
        case Free():
            return "a list or a map"
    return "a map"


def _either(parts: list[str]) -> str:
    return " or ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def _choices(spec: Spec) -> tuple[str, ...]:
    if isinstance(spec, Keys) and spec.short:
        return tuple(choice for form in spec.short.forms for choice in _choices(form))
    return spec.choices if isinstance(spec, Text) else ()


def _subject(node: Node) -> str:
    return origin(node.variables) or "it"


def _given(node: Node) -> str:
    """Return what a value is. A value that a variable gave is never shown, only its kind."""
    value = node.value
    if isinstance(value, str):
        return "a text" if node.variables else shown(value)
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a map"
    if value is None:
        return "null"
    if node.variables:
        return "another value" if isinstance(value, bool) else "another number"
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _hint(node: Node, spec: Spec) -> str:
    if isinstance(node.value, str) and not node.variables:
        near = suggestion(node.value, _choices(spec))
        if near:
            return near
    processor = {Whole: "int", Decimal: "float", Flag: "bool"}.get(type(spec))
    if processor and isinstance(node.value, str) and len(node.variables) == 1 and not node.untyped:
        return f'; write "%env({processor}:{node.variables[0]})%"'
    if isinstance(spec, Whole) and spec.unit == "ms" and isinstance(node.value, str) and not node.variables:
        try:
            return f"; Symfony's unit is the millisecond: write {parse_duration(node.value)}"
        except ConfigurationError:
            return ""
    return ""
