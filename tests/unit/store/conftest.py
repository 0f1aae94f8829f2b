from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import MemoryStore, SqlStore, Store
from bus.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sql"])
def store(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore(clock) if request.param == "memory" else SqlStore(tmp_path / "bus.db", clock=clock)
    yield made
    made.close()
