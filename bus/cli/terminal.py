"""Whether somebody is there to answer."""

from __future__ import annotations

import sys


def somebody_can_answer() -> bool:
    """Tell whether standard input is a terminal. A daemon may have none at all."""
    return sys.stdin is not None and sys.stdin.isatty()
