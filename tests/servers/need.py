"""What becomes of a test whose server is missing."""

from __future__ import annotations

import os

import pytest

REQUIRE_VARIABLE = "BUS_REQUIRE_SERVERS"


def need(missing: str | None) -> None:
    """Skip or fail the test if something is missing."""
    if missing is None:
        return
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{missing}; {REQUIRE_VARIABLE}=1 forbids to skip this", pytrace=False)
    pytest.skip(missing)
