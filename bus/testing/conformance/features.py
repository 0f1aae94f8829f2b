"""What a driver says it can do, and the fixtures that every part of the suite uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, NoReturn, Protocol, TypeVar

import pytest

from bus.testing.clock import FakeClock
from bus.transports.base import Driver

PASSWORD: Final = "not-to-be-shown"  # noqa: S105 - of a server that does not exist

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
        outlives_process: messages stay when the process that sent or claimed them is gone. Needs the fixture ``dsn``.
        subscribers: several groups of consumers each get every message. Needs the fixture ``open_subscriber``.
        restarts: there is a server, which may restart. Needs the fixture ``restart_server``.
        connects: there is a server, which may be away. Needs the fixture ``driver_without_server``.
        loses_claims: a restart of the server ends every claim, so that the messages are delivered again.
        returns_within: seconds after which the messages of a killed consumer are somebody else's.
        returns_in_place: what is given back unbegun stands where it stood, before what came later.
    """

    shared: bool = True
    several_queues: bool = True
    ordered: bool = True
    priorities: bool = True
    parks: bool = True
    outlives_process: bool = False
    subscribers: bool = False
    restarts: bool = False
    connects: bool = False
    loses_claims: bool = True
    returns_within: float = 20.0
    returns_in_place: bool = True


class OpenDriver(Protocol):
    """Opens a driver on a queue of the test's own store."""

    def __call__(self, queue: str = "orders") -> Driver:
        """Return a new driver, which the fixture closes after the test."""


class OpenSubscriber(Protocol):
    """Opens a driver for one of several groups that each get what is sent to one queue, topic or exchange."""

    def __call__(self, group: str) -> Driver:
        """Return a new driver, which the fixture closes after the test. It also sends, to all groups."""


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
        self._must_override("open_driver")

    @pytest.fixture
    def dsn(self) -> str:
        """Return the DSN of the queue "orders" of the same store, for a consumer in another process."""
        self._must_override("dsn")

    @pytest.fixture
    def open_subscriber(self) -> OpenSubscriber:
        """Return a function that opens drivers for groups of consumers."""
        self._must_override("open_subscriber")

    @pytest.fixture
    def restart_server(self) -> Callable[[], None]:
        """Return a function that restarts the server, by a kill perhaps, and returns when it runs again."""
        self._must_override("restart_server")

    @pytest.fixture
    def driver_without_server(self) -> Driver:
        """Return a driver whose server is not there; the password in its DSN, if it has any, is PASSWORD."""
        self._must_override("driver_without_server")

    @pytest.fixture
    def driver(self, open_driver: OpenDriver) -> Driver:
        """Return a driver on the queue "orders"."""
        return open_driver()

    @pytest.fixture(autouse=True)
    def _skip_what_the_driver_cannot(self, request: pytest.FixtureRequest) -> None:
        for feature in getattr(request.function, "__bus_requires__", ()):
            if not getattr(self.features, feature):
                pytest.skip(f"{type(self).__name__} does not have the feature {feature}")

    def _must_override(self, fixture: str) -> NoReturn:
        pytest.fail(f"{type(self).__name__} has to override the fixture {fixture}")
