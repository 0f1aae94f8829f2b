"""Helpers for the tests of programs that use the bus.

from bus.testing import TestMessenger is the beginning; the fixtures of ``bus.testing.pytest_plugin`` use it. Beside
these names stand ``bus.testing.conformance``, the suite for transports, and ``bus.testing.failpoints``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bus.testing.clock import FakeClock
    from bus.testing.envelopes import Envelopes
    from bus.testing.messenger import TestMessenger, in_memory
    from bus.testing.recording import record_dispatches

# The command line imports this package for the failpoints: what these names need is imported with them (PEP 562).
_LAZY = {
    "Envelopes": "bus.testing.envelopes",
    "FakeClock": "bus.testing.clock",
    "TestMessenger": "bus.testing.messenger",
    "in_memory": "bus.testing.messenger",
    "record_dispatches": "bus.testing.recording",
}

__all__ = ["Envelopes", "FakeClock", "TestMessenger", "in_memory", "record_dispatches"]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f'module "bus.testing" has no attribute "{name}"')
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
