"""The in-memory driver passes the suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance import DriverConformance, Features, OpenDriver
from bus.transports.base import Driver
from bus.transports.registry import DriverContext, create_driver


class TestInMemory(DriverConformance):
    features = Features(shared=False, several_queues=False)

    @pytest.fixture
    def open_driver(self, clock: FakeClock) -> Iterator[OpenDriver]:
        drivers: list[Driver] = []

        def open_driver(queue: str = "orders") -> Driver:
            drivers.append(create_driver(queue, "in-memory://", {}, DriverContext(clock=clock)))
            return drivers[-1]

        yield open_driver
        for driver in drivers:
            driver.close()
