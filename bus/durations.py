"""Durations as the configuration writes them: a number with its unit."""

from __future__ import annotations

import re

from bus.errors import ConfigurationError

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WORDS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_FORM = re.compile(r"(?a)(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)")
_BARE = re.compile(r"(?a)-?\d{1,12}(\.\d{1,6})?")


def parse_duration(text: str) -> int:
    """Return the milliseconds of a duration such as ``24h``, ``1.5s`` or ``500ms``; units are ms, s, m, h and d.

    Raises:
        ConfigurationError: there is no unit, or it is no duration.
    """
    match = _FORM.fullmatch(text.strip())
    if match:
        number, unit = match.groups()
        return round(float(number) * _UNITS[unit])
    if _BARE.fullmatch(text.strip()):
        number = text.strip()
        readings = ", ".join(f'"{number}{unit}" ({word})' for unit, word in _WORDS.items())
        raise ConfigurationError(f"the number {number} has no unit; write what is meant: {readings}")
    raise ConfigurationError('expected a duration such as "500ms", "30s", "15m", "24h" or "7d"')
