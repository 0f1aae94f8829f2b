"""Drivers on one Redis, closed when the test is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bus.transports.redis import RedisDriver
from bus.transports.registry import DriverContext, create_driver


class Drivers:
    """Opens drivers on one server. ``base`` is the DSN without a path."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._opened: list[RedisDriver] = []

    def open(
        self, stream: str = "orders", group: str = "symfony", *, base: str | None = None, **options: Any
    ) -> RedisDriver:
        driver = create_driver(
            stream, base or self.base, {"stream": stream, "group": group, **options}, DriverContext()
        )
        assert isinstance(driver, RedisDriver)
        self._opened.append(driver)
        return driver

    def close(self) -> None:
        for driver in self._opened:
            driver.close()


@contextmanager
def drivers_on(base: str) -> Iterator[Drivers]:
    drivers = Drivers(base)
    try:
        yield drivers
    finally:
        drivers.close()
