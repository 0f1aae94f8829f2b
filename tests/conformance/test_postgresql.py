"""The driver of ``postgresql://`` passes the suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus.testing.conformance import DriverConformance, OpenDriver
from bus.transports.base import Driver
from bus.transports.registry import DriverContext, create_driver


class TestPostgresql(DriverConformance):
    @pytest.fixture
    def open_driver(self, postgres_dsn: str) -> Iterator[OpenDriver]:
        drivers: list[Driver] = []

        def open_driver(queue: str = "orders") -> Driver:
            drivers.append(create_driver(queue, f"{postgres_dsn}?queue_name={queue}", {}, DriverContext()))
            drivers[-1].get(0)  # connects and makes the table, so that no test measures that
            return drivers[-1]

        yield open_driver
        for driver in drivers:
            driver.close()
