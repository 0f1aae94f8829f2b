"""DSNs and transport options: parsed, decoded and checked in one place, whatever the driver."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bus.errors import ConfigurationError, did_you_mean, quoted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

O = TypeVar("O", bound="DataclassInstance")  # noqa: E741 - the options class of a driver

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_SECRET = re.compile(r"pass|secret|token|auth", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")
_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_MASK = "***"


class Host(NamedTuple):
    """One server of a DSN; ``port`` is None where the DSN names none."""

    name: str
    port: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Dsn:
    """A parsed DSN. Every part is percent-decoded once; ``str`` and ``repr`` never show a secret.

    ``path`` keeps its leading slash; ``segments`` are what stands between its slashes, so that a %2F is part of one.
    ``query`` has one value per key.
    """

    scheme: str
    hosts: tuple[Host, ...] = ()
    user: str | None = None
    password: str | None = None
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    segments: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def parse(cls, text: str) -> Dsn:
        """Take a DSN apart.

        Raises:
            ConfigurationError: it is no DSN. The text says what is wrong without showing the DSN, which may hold a
                password in an unexpected place.
        """
        parts = _split(text)
        credentials, _, netloc = parts.netloc.rpartition("@")
        user, colon, password = credentials.partition(":")
        return cls(
            scheme=parts.scheme,
            hosts=tuple(_host(each) for each in netloc.split(",")) if netloc else (),
            user=unquote(user) if credentials else None,
            password=unquote(password) if colon else None,
            path=unquote(parts.path),
            query=_query(parts.query),
            segments=tuple(unquote(each) for each in parts.path.removeprefix("/").split("/")) if parts.path else (),
        )

    @property
    def masked(self) -> str:
        """Return the DSN as text for people, with secrets replaced."""
        credentials = ""
        if self.user is not None:
            credentials = f"{self.user}:{_MASK}@" if self.password is not None else f"{self.user}@"
        hosts = ",".join(each.name if each.port is None else f"{each.name}:{each.port}" for each in self.hosts)
        query = "&".join(f"{key}={_MASK if _SECRET.search(key) else value}" for key, value in self.query.items())
        return f"{self.scheme}://{credentials}{hosts}{self.path}{'?' + query if query else ''}"

    def __str__(self) -> str:
        return self.masked

    def __repr__(self) -> str:
        return f"Dsn({self.masked!r})"


def options_from(cls: type[O], dsn: Dsn, options: Mapping[str, object], transport_name: str) -> O:
    """Make a driver's options from the DSN's query and the ``options:`` of a transport.

    Values are read as the dataclass annotates its fields (bool, int, float, str, each also with None); where both
    name an option, the DSN wins, as in Symfony. A ValueError of the class's own checks becomes a problem.

    Raises:
        ConfigurationError: with every unknown option and every unusable value.
    """
    hints = typing.get_type_hints(cls)
    valid = [each.name for each in fields(cls)]
    problems, values = [], {}
    for name, value in {**options, **dsn.query}.items():
        if name not in valid:
            problems.append(
                f'Transport "{transport_name}": unknown option "{name}"; '
                f'options of "{dsn.scheme}" are: {quoted(sorted(valid))}{did_you_mean(name, valid)}'
            )
            continue
        try:
            values[name] = _coerce(value, hints[name])
        except ValueError as error:
            shown = _MASK if _SECRET.search(name) else value
            problems.append(f'Transport "{transport_name}": option "{name}" must be {error}, not "{shown}"')
    if not problems:
        try:
            return cls(**values)
        except ValueError as error:
            problems.append(f'Transport "{transport_name}": {error}')
    raise ConfigurationError(*problems)


def _split(text: str) -> SplitResult:
    if not _SCHEME.match(text):
        raise ConfigurationError('a DSN begins with a scheme, as in "sqlite:///var/bus.db"')
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ConfigurationError(f"the host of this DSN cannot be read: {_ENCODE}") from None
    if "://" not in text:
        raise ConfigurationError(f'"//" is missing behind "{parts.scheme}:" in this DSN')
    if parts.fragment or text.endswith("#"):
        raise ConfigurationError(f'this DSN has a "#": {_ENCODE}')
    return parts


_ENCODE = 'in names, passwords and values, write "/" as %2F, "?" as %3F, "#" as %23, "@" as %40, ":" as %3A'


def _host(text: str) -> Host:
    if text.startswith("["):
        name, _, port = text.removeprefix("[").partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = text.partition(":")
    if not port:
        return Host(unquote(name))
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"the port of a host in this DSN is no number from 1 to 65535: {_ENCODE}")
    return Host(unquote(name), int(port))


def _query(text: str) -> dict[str, str]:
    query: dict[str, str] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key in query:
            raise ConfigurationError(f'this DSN names the option "{key}" twice')
        query[key] = value
    return query


def _coerce(value: object, wanted: object) -> object:
    """Return the value as ``wanted``, or raise a ValueError that says what it must be."""
    if isinstance(wanted, types.UnionType):
        kinds = [each for each in typing.get_args(wanted) if each is not types.NoneType]
        return None if value is None or value == "" else _coerce(value, kinds[0])
    if wanted is bool:
        return _as_bool(value)
    if wanted is int:
        return _as_int(value)
    if wanted is float:
        return _as_float(value)
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _as_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    raise ValueError("true or false")


def _as_int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    raise ValueError("a whole number")


def _as_float(value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError("a number")
