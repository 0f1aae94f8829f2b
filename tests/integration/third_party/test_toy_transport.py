"""The suite for transports over the toy transport: all that a third party writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy_transport

from bus.testing import FakeClock
from bus.testing.conformance import PASSWORD, DriverConformance, Features, OpenDriver, OpenSubscriber
from bus.transports.base import Driver
from bus.transports.registry import DriverContext, create_driver


class TestToyTransport(DriverConformance):
    features = Features(outlives_process=True, subscribers=True, restarts=True, connects=True)

    @pytest.fixture
    def server(self, tmp_path: Path) -> Path:
        return tmp_path / "toy.db"

    @pytest.fixture
    def open_queue(self, server: Path, clock: FakeClock) -> Iterator[Callable[[str], Driver]]:
        drivers: list[Driver] = []

        def open_queue(query: str) -> Driver:
            drivers.append(create_driver("toy", f"toy://{server}?{query}", {}, DriverContext(clock=clock)))
            return drivers[-1]

        yield open_queue
        for driver in drivers:
            driver.close()

    @pytest.fixture
    def open_driver(self, open_queue: Callable[[str], Driver]) -> OpenDriver:
        return lambda queue="orders": open_queue(f"queue={queue}")

    @pytest.fixture
    def open_subscriber(self, open_queue: Callable[[str], Driver]) -> OpenSubscriber:
        return lambda group: open_queue(f"queue=orders&group={group}")

    @pytest.fixture
    def driver_without_server(self, tmp_path: Path) -> Driver:
        dsn = f"toy://ada:{PASSWORD}@host{tmp_path}/no/such/folder/toy.db"
        return create_driver("toy", dsn, {}, DriverContext())

    @pytest.fixture
    def dsn(self, server: Path) -> str:
        return f"toy://{server}?queue=orders"

    @pytest.fixture
    def restart_server(self, server: Path) -> Callable[[], None]:
        return lambda: toy_transport.restart(str(server))
