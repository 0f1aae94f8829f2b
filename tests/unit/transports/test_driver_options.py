"""Rules for the option classes of every driver."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest

from bus.transports.memory import MemoryOptions
from bus.transports.redis import RedisOptions
from bus.transports.sql import SqlOptions

EVERY_CLASS = [MemoryOptions, RedisOptions, SqlOptions]


def described(options: type) -> str:
    """Return the docstrings of a class and of those that it extends, the latter first as their fields are."""
    return "\n".join(each.__doc__ or "" for each in reversed(options.__mro__[:-1]))


@pytest.mark.parametrize("options", EVERY_CLASS)
def test_options_are_frozen_and_named(options: type) -> None:
    assert is_dataclass(options)
    assert all(each.kw_only for each in fields(options))
    with pytest.raises(FrozenInstanceError):
        setattr(options(), fields(options)[0].name, None)


@pytest.mark.parametrize("options", EVERY_CLASS)
def test_every_option_is_documented(options: type) -> None:
    documented = re.findall(r"^ {8}(\w+):", described(options), re.MULTILINE)

    assert [each.name for each in fields(options)] == documented


@pytest.mark.parametrize("options", EVERY_CLASS)
def test_every_duration_names_its_unit(options: type) -> None:
    texts = dict(re.findall(r"^ {8}(\w+): ((?:.|\n {12})*)", described(options), re.MULTILINE))
    durations = [name for name in texts if re.search("timeout|interval|delay|lease", name)]

    assert [name for name in durations if "second" not in texts[name]] == []
