"""What ``from bus import ...`` offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bus
import bus.testing

HEAVY = ("sqlalchemy", "yaml", "click", "rich", "asyncio", "filelock", "redis")


def test_the_list_of_public_names_is_sorted_and_has_no_repeats() -> None:
    assert list(bus.__all__) == sorted(set(bus.__all__))


@pytest.mark.parametrize("name", bus.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    public = getattr(bus, name)

    assert public.__doc__


def test_nothing_else_of_ours_is_public() -> None:
    others = {
        name
        for name, value in vars(bus).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("bus.")
    }

    assert others <= set(bus.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match='module "bus" has no attribute "Buss"'):
        _ = bus.Buss


def test_the_names_are_listed_for_completion() -> None:
    assert set(bus.__all__) <= set(dir(bus))


def test_the_names_for_tests_are_there_and_say_what_they_are() -> None:
    assert list(bus.testing.__all__) == sorted(set(bus.testing.__all__))
    assert [name for name in bus.testing.__all__ if not getattr(bus.testing, name).__doc__] == []


@pytest.mark.parametrize("module", ["bus", "bus.testing", "bus.testing.failpoints"])
def test_importing_the_package_imports_nothing_heavy(module: str) -> None:
    program = f"import {module}, sys; print([name for name in {HEAVY!r} if name in sys.modules])"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    assert printed.stdout.strip() == "[]"


def test_a_messenger_without_a_database_imports_no_database_library() -> None:
    program = "import bus, sys; bus.Messenger(bus.MessengerConfig()); print('sqlalchemy' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    assert printed.stdout.strip() == "False"
