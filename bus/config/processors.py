"""Symfony's processors of environment variables: what ``%env(int:default:fallback:NAME)%`` makes of a variable.

An error names the variable and what was expected of it, never its value.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from bus.config.nodes import shown, suggestion
from bus.errors import quoted

_LARGEST_FILE = 1024 * 1024
_MOST_PROCESSORS = 20
_NUMBER = re.compile(r"(?a)[-+]?(\d{1,30}(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?")
_FLAGS = {"true": True, "on": True, "yes": True, "1": True, "": False}
_FLAGS |= {"false": False, "off": False, "no": False, "0": False}


class UnresolvedError(ValueError):
    """A placeholder cannot be replaced. Internal: the loader reports it with its position."""


class NotSetError(UnresolvedError):
    """A variable, a file or a key that a processor needs is not there; ``default`` and ``defined`` allow that."""


class Surroundings(Protocol):
    """What processors look things up in."""

    def variable(self, name: str) -> str:
        """Return a variable, or raise NotSetError."""

    def parameter(self, name: str) -> object:
        """Return the resolved value of a parameter, or raise UnresolvedError."""

    def resolve(self, text: str) -> str:
        """Replace the placeholders in a text."""

    @property
    def project(self) -> Path:
        """The folder that relative paths start from."""


def process(expression: str, surroundings: Surroundings, depth: int = 0) -> object:
    """Return the value of what stands inside ``%env(...)%``.

    Raises:
        UnresolvedError: a variable is not set, or does not hold what its processor expects.
    """
    processor, colon, rest = expression.partition(":")
    if not colon:
        if not re.fullmatch(r"\w+", expression):
            raise UnresolvedError("there is no name of a variable in %env(...)%")
        return surroundings.variable(expression)
    if depth > _MOST_PROCESSORS:
        raise UnresolvedError(f"more than {_MOST_PROCESSORS} processors in one %env(...)%")
    special = _SPECIAL.get(processor)
    if special:
        return special(rest, surroundings, depth + 1)
    convert = _CONVERSIONS.get(processor)
    if convert is None:
        names = [*_SPECIAL, *_CONVERSIONS]
        near = suggestion(processor, names) or f"; valid are {quoted(names)}"
        raise UnresolvedError(f"unknown processor in %env(...)%{near}")
    value = process(rest, surroundings, depth + 1)
    name = rest.rpartition(":")[2]
    if value is None:
        return _OF_NOTHING.get(processor)
    if isinstance(value, dict | list):
        raise UnresolvedError(f'the processor "{processor}" takes no list or map, which "{name}" gives')
    return convert(_as_text(value), name)


def _as_text(value: object) -> str:
    """Return a value as PHP writes it: true is 1, false is empty."""
    if isinstance(value, bool):
        return "1" if value else ""
    return str(value)


def _wrong(name: str, expected: str) -> UnresolvedError:
    return UnresolvedError(f'the variable "{name}" does not hold {expected}')


def _flag(text: str, name: str) -> bool:
    word = text.strip().lower()
    if word in _FLAGS:
        return _FLAGS[word]
    if _NUMBER.fullmatch(word):
        return float(word) != 0
    raise _wrong(name, "true or false")


def _whole(text: str, name: str) -> int:
    text = text.strip()
    if re.fullmatch(r"(?a)[-+]?\d{1,30}", text):
        return int(text)
    number = _decimal(text, name, "a whole number")
    if not number.is_integer():
        raise _wrong(name, "a whole number")
    return int(number)


def _decimal(text: str, name: str, expected: str = "a number") -> float:
    text = text.strip()
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise _wrong(name, expected)
    return float(text)


def _json(text: str, name: str) -> object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong(name, "valid JSON") from None
    if value is not None and not isinstance(value, dict | list):
        raise _wrong(name, "a list or map in JSON")
    return value


def _csv(text: str, name: str) -> list[str]:
    try:
        return next(csv.reader([text]), []) if text else []
    except csv.Error:
        raise _wrong(name, "comma-separated values") from None


def _base64(text: str, name: str) -> str:
    text = text.strip().replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        raise _wrong(name, "base64 of a UTF-8 text") from None


def _url(text: str, name: str) -> dict[str, object]:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _wrong(name, "a URL") from None
    if not parts.scheme or not parts.hostname:
        raise _wrong(name, "a URL with scheme and host")
    return {
        "scheme": parts.scheme,
        "host": parts.hostname,
        "port": port,
        "user": None if parts.username is None else unquote(parts.username),
        "pass": None if parts.password is None else unquote(parts.password),
        "path": parts.path.removeprefix("/"),
        "query": parts.query or None,
        "fragment": parts.fragment or None,
    }


def _query_string(text: str, _: str) -> dict[str, str]:
    _, mark, query = text.partition("?")
    return dict(parse_qsl(query if mark else text, keep_blank_values=True))


_CONVERSIONS: Mapping[str, Callable[[str, str], object]] = {
    "string": lambda text, _: text,
    "bool": _flag,
    "not": lambda text, name: not _flag(text, name),
    "int": _whole,
    "float": _decimal,
    "json": _json,
    "csv": _csv,
    "base64": _base64,
    "url": _url,
    "query_string": _query_string,
    "trim": lambda text, _: text.strip(),
    "urlencode": lambda text, _: quote(text, safe=""),
}

# What a processor makes of null, which only "default" can give it.
_OF_NOTHING: Mapping[str, object] = {"string": "", "bool": False, "not": True, "int": 0, "float": 0.0}


def _split(rest: str, processor: str, what: str) -> tuple[str, str]:
    head, colon, tail = rest.partition(":")
    if not colon:
        raise UnresolvedError(f'the processor "{processor}" needs {what}: %env({processor}:{what}:NAME)%')
    return head, tail


def _default(rest: str, surroundings: Surroundings, depth: int) -> object:
    fallback, inner = _split(rest, "default", "a parameter")
    try:
        value = process(inner, surroundings, depth)
    except NotSetError:
        value = None
    if value not in ("", None):
        return value
    return surroundings.parameter(fallback) if fallback else None


def _defined(rest: str, surroundings: Surroundings, depth: int) -> bool:
    try:
        return process(rest, surroundings, depth) not in ("", None)
    except NotSetError:
        return False


def _key(rest: str, surroundings: Surroundings, depth: int) -> object:
    key, inner = _split(rest, "key", "a key")
    value = process(inner, surroundings, depth)
    name = inner.rpartition(":")[2]
    if isinstance(value, list) and key.isdecimal() and len(key) < 6 and int(key) < len(value):
        return value[int(key)]
    if not isinstance(value, dict | list):
        raise _wrong(name, "a list or a map to take a key from")
    if isinstance(value, dict) and key in value:
        return value[key]
    raise NotSetError(f'the variable "{name}" has no key {shown(key)}')


def _file(rest: str, surroundings: Surroundings, depth: int) -> str:
    path = process(rest, surroundings, depth)
    name = rest.rpartition(":")[2]
    if not isinstance(path, str):
        raise _wrong(name, "the path of a file")
    try:
        file = surroundings.project / path
        if file.stat().st_size > _LARGEST_FILE:
            raise UnresolvedError(f'the file that the variable "{name}" names is larger than 1 MiB')
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise NotSetError(f'the file that the variable "{name}" names does not exist') from None
    except (OSError, ValueError):
        raise UnresolvedError(f'the file that the variable "{name}" names cannot be read as text') from None


def _resolve(rest: str, surroundings: Surroundings, depth: int) -> str:
    return surroundings.resolve(_as_text(process(rest, surroundings, depth)))


_SPECIAL: Mapping[str, Callable[[str, Surroundings, int], object]] = {
    "default": _default,
    "defined": _defined,
    "key": _key,
    "file": _file,
    "resolve": _resolve,
}
