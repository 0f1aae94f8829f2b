"""Plain YAML scalars: what an unquoted word or number means.

PyYAML reads YAML 1.1, Symfony and most editors something nearer to YAML 1.2. Where they agree the value is taken; where
they do not, the file is refused with both readings, because whoever wrote it meant only one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bus.config.nodes import Scalar

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WHOLE = re.compile(r"(?a)[-+]?(0|[1-9][\d_]*)")
_HEX = re.compile(r"[-+]?0x[0-9a-fA-F][0-9a-fA-F_]*")
_DECIMAL = re.compile(r"(?a)[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]\d+)?")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}

_LONGEST_NUMBER = 30  # digits; int() of thousands of digits is refused by Python itself
_WELL_KNOWN = 5  # longest text that is repeated in a message: nothing so short is a secret


def read_plain(text: str) -> tuple[Scalar, str | None]:
    """Return the value of an unquoted scalar, and what is wrong with writing it so, or None."""
    if text in _NULL:
        return None, None
    if text in _FLAGS:
        return _FLAGS[text], None
    if len(text) <= _LONGEST_NUMBER:
        if _WHOLE.fullmatch(text):
            return int(text.replace("_", "")), None
        if _HEX.fullmatch(text):
            return int(text.replace("_", ""), 16), None
        if _DECIMAL.fullmatch(text):
            return float(text.replace("_", "")), None
    if text.lower() in _SPECIAL:
        return float(_SPECIAL[text.lower()]), None
    return text, _ambiguity(text)


def read_tagged(kind: str, text: str) -> tuple[Scalar, str | None]:
    """Return the value of a scalar with one of YAML's own tags: str, int, float, bool or null."""
    if kind == "str":
        return text, None
    value, problem = read_plain(text)
    fits = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "null": value is None,
    }
    return value, problem or (None if fits[kind] else f'this is not what the tag "!!{kind}" says')


def _ambiguity(text: str) -> str | None:
    for form, explain in _AMBIGUOUS:
        if form.fullmatch(text):
            return explain(text)
    return None


def _word(text: str) -> str:
    reading = "true" if text.lower() in ("yes", "on") else "false"
    return f'"{text}" is {reading} to some readers of YAML and a text to others; write {reading}, or put it in quotes'


def _digits(what: str, read: Callable[[str], str]) -> Callable[[str], str]:
    def explain(text: str) -> str:
        reading = f' ("{text}": {read(text)})' if len(text) <= _WELL_KNOWN else ""
        return f"{what} is not the same to all readers of YAML{reading}; write the plain number, or put it in quotes"

    return explain


def _sixties(text: str) -> str:
    total = 0.0
    for part in text.lstrip("+-").replace("_", "").split(":"):
        total = total * 60 + float(part or 0)
    return f"{total:g} or a text"


_AMBIGUOUS: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (re.compile(r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"), _word),
    (
        re.compile(r"(?a)[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?"),
        _digits("a number with colons", _sixties),
    ),
    (
        re.compile(r"[-+]?0[0-7]+"),
        _digits("a number that begins with 0", lambda text: f"{int(text, 8)} or {int(text)}"),
    ),
    (re.compile(r"(?a)[-+]?0[\d_]+"), _digits("a number that begins with 0", lambda _: "a number or a text")),
    (
        re.compile(r"[-+]?0o[0-7]+"),
        _digits("a number that begins with 0o", lambda text: f"{int(text, 8)} or a text"),
    ),
    (
        re.compile(r"[-+]?0b[01]+"),
        _digits("a number that begins with 0b", lambda text: f"{int(text, 2)} or a text"),
    ),
    (
        re.compile(r"(?a)[-+]?\d+(\.\d*)?[eE][-+]?\d+"),
        _digits("a number with an exponent", lambda text: f"{float(text):g} or a text"),
    ),
    (
        re.compile(r"(?a)\d{4}-\d\d?-\d\d?(([Tt]|\s+)\d\d?:\d\d:\d\d.*)?"),
        _digits("a date", lambda _: "a date or a text"),
    ),
    (
        re.compile(rf"(?a)[-+]?\d{{{_LONGEST_NUMBER},}}"),
        lambda _: f"a number has at most {_LONGEST_NUMBER} digits; put it in quotes if it is a text",
    ),
)
