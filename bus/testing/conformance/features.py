"""What a driver says it can do, and the fixtures that every part of the suite uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import pytest

from bus.testing.clock import FakeClock
from bus.transports.base import Driver

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a driver can do; a test of what it cannot is skipped with the name of the feature.

    Attributes:
        shared: two drivers opened on one queue see the same messages, and a driver opened later sees the old ones.
        several_queues: drivers on different queues share one store, and ``origin`` names one of them.
        ordered: messages of one priority are delivered in the order in which they became due.
        priorities: a higher priority is delivered first.
        parks: ``Park`` keeps a message.
    """

    shared: bool = True
    several_queues: bool = True
    ordered: bool = True
    priorities: bool = True
    parks: bool = True


class OpenDriver(Protocol):
    """Opens a driver on a queue of the test's own store."""

    def __call__(self, queue: str = "orders") -> Driver:
        """Return a new driver, which the fixture closes after the test."""


def requires(*features: str) -> Callable[[F], F]:
    """Mark a test that needs features of the driver."""

    def mark(test: F) -> F:
        test.__bus_requires__ = features  # type: ignore[attr-defined]
        return test

    return mark


class DriverSuite:
    """The fixtures of the suite."""

    features: ClassVar[Features] = Features()

    @pytest.fixture
    def clock(self) -> FakeClock:
        """Return the clock that the driver is given."""
        return FakeClock()

    @pytest.fixture
    def open_driver(self) -> OpenDriver:
        """Return a function that opens drivers on one empty store: the fixture that a subclass overrides."""
        pytest.fail(f"{type(self).__name__} has to override the fixture open_driver")

    @pytest.fixture
    def driver(self, open_driver: OpenDriver) -> Driver:
        """Return a driver on the queue "orders"."""
        return open_driver()

    @pytest.fixture(autouse=True)
    def _skip_what_the_driver_cannot(self, request: pytest.FixtureRequest) -> None:
        for feature in getattr(request.function, "__bus_requires__", ()):
            if not getattr(self.features, feature):
                pytest.skip(f"{type(self).__name__} does not have the feature {feature}")
