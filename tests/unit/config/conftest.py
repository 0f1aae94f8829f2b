"""Loads configurations from texts, with an environment of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from bus.config.environment import Environment
from bus.config.loader import Loaded, load_text
from bus.errors import ConfigurationError


@pytest.fixture
def load() -> Callable[..., Loaded]:
    """Return a function that loads a text; keyword arguments are the variables, APP_ENV among them."""

    def load(text: str | bytes, **variables: str) -> Loaded:
        written = text if isinstance(text, bytes) else dedent(text).encode()
        environment = Environment(variables, variables.get("APP_ENV", "dev"), Path("/srv/shop"))
        return load_text(written, "messenger.yaml", environment)

    return load


@pytest.fixture
def problems(load: Callable[..., Loaded]) -> Callable[..., list[str]]:
    """Return a function that loads a text which must be refused, and returns the lines of the error."""

    def problems(text: str | bytes, **variables: str) -> list[str]:
        with pytest.raises(ConfigurationError) as raised:
            load(text, **variables)
        return list(raised.value.problems)

    return problems
