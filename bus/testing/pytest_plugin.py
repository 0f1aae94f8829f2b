"""The pytest plug-in: fixtures for the tests of programs that use the bus.

A test that asks for ``messenger`` gets the messenger of the project's configuration in the environment ``test``, with
every transport in memory; ``bus.dispatch`` uses it for the length of that test. The other fixtures are parts of it, to
be overridden in a ``conftest.py``. Until a test asks for one, nothing is imported and nothing is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import chdir
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bus.config.schema import MessengerConfig
    from bus.handler_arguments import Container
    from bus.testing.clock import FakeClock
    from bus.testing.envelopes import Envelopes
    from bus.testing.messenger import TestMessenger


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of the ini file."""
    parser.addini(
        "bus_config", "The configuration of the bus, below the root folder (default: it is looked for there)."
    )
    parser.addini(
        "bus_env", "APP_ENV when the configuration of the bus is read: which when@ENV section holds.", default="test"
    )
    parser.addini(
        "bus_keep_transports", "Take the transports as configured, not in memory.", type="bool", default=False
    )


@pytest.fixture(scope="session")
def messenger_config(pytestconfig: pytest.Config) -> MessengerConfig:
    """Return the configuration of the project, read once, in the environment that the ini option bus_env names.

    Override it to configure the messenger of the tests in Python.
    """
    from bus.config.discovery import make_working_directory_importable
    from bus.config.loader import load
    from bus.errors import ConfigurationError

    environment = {**os.environ, "APP_ENV": pytestconfig.getini("bus_env")}
    # As a program that is started in the root folder does it, wherever pytest was started.
    with chdir(pytestconfig.rootpath):
        make_working_directory_importable()
        try:
            return load(pytestconfig.getini("bus_config") or None, environment=environment)
        except ConfigurationError as error:
            pytest.fail(str(error), pytrace=False)


@pytest.fixture
def messenger_clock() -> FakeClock:
    """Return the clock of the messenger: it stands still until a test moves it."""
    from bus.testing.clock import FakeClock

    return FakeClock()


@pytest.fixture
def messenger_container() -> Container | None:
    """Return None. Override it with a container, of doubles perhaps, for what handlers ask for."""
    return None


@pytest.fixture
def messenger(
    messenger_config: MessengerConfig,
    messenger_clock: FakeClock,
    messenger_container: Container | None,
    pytestconfig: pytest.Config,
) -> Iterator[TestMessenger]:
    """Return a messenger of this test alone, which ``bus.dispatch`` uses as well, and close it afterwards."""
    from bus.default_messenger import replaced_by
    from bus.testing.messenger import TestMessenger

    made = TestMessenger(
        messenger_config,
        container=messenger_container,
        clock=messenger_clock,
        keep_transports=pytestconfig.getini("bus_keep_transports"),
    )
    with made, replaced_by(made):
        yield made


@pytest.fixture
def dispatched(messenger: TestMessenger) -> Envelopes:
    """Return what this test has dispatched, directly or through handlers."""
    return messenger.dispatched
