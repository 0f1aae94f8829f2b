"""What survives a consumer that is killed, a server that restarts, and one that is not there."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from bus.errors import TransportError
from bus.testing.clock import FakeClock
from bus.testing.conformance.features import PASSWORD, DriverSuite, OpenDriver, requires
from bus.testing.conformance.traffic import PATIENCE, eventually, outgoing
from bus.transports.base import Ack, Claim, Delivery, Driver, Outgoing, Sent


class Outages(DriverSuite):
    """Kills and restarts."""

    @requires("outlives_process")
    def test_what_a_killed_consumer_held_comes_back_and_what_it_had_begun_counted(
        self, driver: Driver, dsn: str, clock: FakeClock
    ) -> None:
        _follow_real_time(clock)
        sent = [str(number).encode() for number in range(5)]
        driver.send([outgoing(body) for body in sent])
        with _consumer(dsn) as begun:
            assert list(driver.get(10)) == []

        received = self._receive_in_real_time(driver, clock, 5)

        assert sorted(each.body for each in received) == sent
        assert {each.body: each.claim.deliveries for each in received}[begun] == 2
        assert list(driver.settle([Ack(each.claim) for each in received])) == []

    @requires("restarts", "shared")
    def test_nothing_is_lost_when_the_server_restarts_mid_stream(
        self, open_driver: OpenDriver, restart_server: Callable[[], None]
    ) -> None:
        sender, consumer = open_driver(), open_driver()
        handled: set[bytes] = set()
        held: list[Claim] = []
        confirmed = []
        for number in range(150):
            if number in (50, 100):
                restart_server()
            message = outgoing(str(number).encode())
            self._persist(partial(_is_sent, sender, message))
            confirmed.append(message.body)
            if number % 3 == 0:
                # Some are in hand, and some settlements on their way, whenever the server goes.
                self._persist(partial(_take_in, consumer, 4, handled, held))
            if number % 10 == 9:
                self._persist(partial(_settle, consumer, held))

        def all_are_handled() -> bool:
            return _take_in(consumer, 100, handled, held) and _settle(consumer, held) and handled >= set(confirmed)

        self._persist(all_are_handled)
        assert sorted(handled) == sorted(confirmed)

    @requires("restarts", "shared", "loses_claims")
    def test_a_claim_from_before_a_restart_has_no_say_in_the_next_delivery(
        self, open_driver: OpenDriver, restart_server: Callable[[], None]
    ) -> None:
        driver = open_driver()
        driver.send([outgoing(b"message")])
        claims: list[Claim] = []
        self._persist(lambda: _take_in(driver, 1, set(), claims) and len(claims) == 1)
        restart_server()

        self._persist(lambda: _take_in(driver, 1, set(), claims) and len(claims) == 2)

        assert list(driver.settle([Ack(claims[0])])) == [claims[0]]
        assert list(driver.settle([Ack(claims[1])])) == []

    @requires("connects")
    def test_a_send_without_a_server_is_an_error_in_time_and_shows_no_password(
        self, driver_without_server: Driver
    ) -> None:
        began = time.monotonic()

        try:
            (result,) = driver_without_server.send([outgoing()])
        except TransportError as raised:
            result = raised

        assert isinstance(result, TransportError)
        assert PASSWORD not in f"{result} {result!r}"
        assert time.monotonic() - began < 2 * PATIENCE

    @requires("connects")
    def test_a_look_without_a_server_is_an_error_in_time_and_shows_no_password(
        self, driver_without_server: Driver
    ) -> None:
        began = time.monotonic()

        with pytest.raises(TransportError) as raised:
            driver_without_server.get(1)

        assert PASSWORD not in f"{raised.value} {raised.value!r}"
        assert time.monotonic() - began < 2 * PATIENCE

    @requires("connects")
    def test_closing_without_a_server_is_harmless(self, driver_without_server: Driver) -> None:
        driver_without_server.close()
        with suppress(TransportError):
            driver_without_server.get(1)
        driver_without_server.close()

    def _receive_in_real_time(self, driver: Driver, clock: FakeClock, count: int) -> list[Delivery]:
        received: list[Delivery] = []

        def enough() -> bool:
            _follow_real_time(clock)
            received.extend(driver.get(count - len(received)))
            return len(received) >= count

        what = f"{count} messages of a killed consumer should have come back"
        eventually(enough, what, within=self.features.returns_within + PATIENCE)
        return received

    def _persist(self, attempt: Callable[[], bool]) -> None:
        """Repeat what a restart may interrupt, as a worker does, until it succeeds."""

        def succeeds() -> bool:
            try:
                return attempt()
            except TransportError:
                return False

        eventually(
            succeeds, "the driver should have found its server again", within=self.features.returns_within + PATIENCE
        )


def _follow_real_time(clock: FakeClock) -> None:
    """Set the clock to the time of the other process: a driver may tell leases by it, and both shall agree."""
    clock.advance(time.time() - clock.now())


@contextmanager
def _consumer(dsn: str) -> Iterator[bytes]:
    """Let another process claim everything and begin one message, which is yielded; kill it at the end of the block."""
    command = [sys.executable, "-m", "bus.testing.conformance.consumer", dsn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().encode()
        finally:
            process.kill()


def _is_sent(driver: Driver, message: Outgoing) -> bool:
    # A message with an unknown fate is sent again under its id, as the callers of a bus do.
    return isinstance(driver.send([message])[0], Sent)


def _take_in(driver: Driver, limit: int, handled: set[bytes], held: list[Claim]) -> bool:
    for delivery in driver.get(limit):
        if delivery.claim.begin():
            handled.add(delivery.body)
            held.append(delivery.claim)
    return True


def _settle(driver: Driver, held: list[Claim]) -> bool:
    driver.settle([Ack(claim) for claim in held])
    held.clear()
    return True
