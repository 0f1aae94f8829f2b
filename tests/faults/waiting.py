"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds. Generous, because nothing is measured by it: other work may share the machine.
PATIENCE = 60.0


def wait_until(condition: Callable[[], object], what: str, within: float = PATIENCE, every: float = 0.01) -> float:
    """Return the seconds until ``condition`` was true; fail when it is not true in time."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > within:
            raise AssertionError(f"within {within:g} s it did not happen that {what}")
        time.sleep(every)
    return time.monotonic() - started
