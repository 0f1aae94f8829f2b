"""The SQLite driver passes the suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance import DriverConformance, Features, OpenDriver
from bus.transports.base import Driver
from bus.transports.registry import DriverContext, create_driver


class TestSqlite(DriverConformance):
    features = Features(outlives_process=True)

    @pytest.fixture
    def dsn(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/var/bus.db?queue_name=orders"

    @pytest.fixture
    def open_driver(self, tmp_path: Path, clock: FakeClock) -> Iterator[OpenDriver]:
        drivers: list[Driver] = []

        def open_driver(queue: str = "orders") -> Driver:
            dsn = f"sqlite:///{tmp_path}/var/bus.db?queue_name={queue}"
            drivers.append(create_driver(queue, dsn, {}, DriverContext(clock=clock)))
            return drivers[-1]

        yield open_driver
        for driver in drivers:
            driver.close()
