"""What a driver may offer beyond the four verbs."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from bus.testing.clock import FakeClock
from bus.testing.conformance.features import DriverSuite, requires
from bus.testing.conformance.traffic import PATIENCE, bodies, outgoing, receive
from bus.transports.base import (
    Ack,
    Counts,
    CountsMessages,
    Discard,
    Driver,
    KnowsNextDue,
    Lists,
    Park,
    SetsUp,
    Wakes,
)


class Capabilities(DriverSuite):
    """Set-up, wake-ups, counts, peek and take; skipped where the driver has no such methods."""

    def test_setting_up_twice_is_harmless(self, driver: Driver) -> None:
        if not isinstance(driver, SetsUp):
            pytest.skip(f"{type(self).__name__} has nothing to set up")
        driver.send([outgoing()])

        driver.set_up()
        driver.set_up()

        assert list(driver.check()) == []
        assert len(receive(driver, 1)) == 1

    def test_a_waiting_worker_is_woken_by_a_send(self, driver: Driver) -> None:
        if not isinstance(driver, Wakes):
            pytest.skip(f"{type(self).__name__} cannot wake")
        woken = threading.Event()
        driver.on_arrival(woken.set)
        woken.clear()

        driver.send([outgoing()])

        assert woken.wait(PATIENCE)

    def test_the_time_until_a_delayed_message_is_due_is_known(self, driver: Driver) -> None:
        if not isinstance(driver, KnowsNextDue):
            pytest.skip(f"{type(self).__name__} cannot tell")
        assert driver.seconds_until_due() is None
        driver.send([outgoing(delay_ms=60_000), outgoing(delay_ms=20_000), outgoing()])

        seconds = driver.seconds_until_due()

        assert seconds is not None
        assert 15 < seconds <= 20

    def test_counts_tell_what_is_there(self, driver: Driver, clock: FakeClock) -> None:
        if not isinstance(driver, CountsMessages):
            pytest.skip(f"{type(self).__name__} cannot count")
        assert driver.counts().ready == 0
        driver.send([outgoing() for _ in range(5)])
        driver.send([outgoing(delay_ms=60_000)])
        receive(driver, 2)

        counts = driver.counts()

        expected = Counts(ready=3, delayed=1, in_flight=2, parked=0)
        known = [(got, want) for got, want in zip(_numbers(counts), _numbers(expected), strict=True) if got is not None]
        assert all(got == want for got, want in known)

    def test_what_is_settled_is_not_counted_any_more(self, driver: Driver) -> None:
        if not isinstance(driver, CountsMessages):
            pytest.skip(f"{type(self).__name__} cannot count")
        driver.send([outgoing(), outgoing()])
        handled, given_up = receive(driver, 2)

        driver.settle([Ack(handled.claim), Discard(given_up.claim)])

        assert [number for number in _numbers(driver.counts()) if number] == []

    def test_looking_claims_nothing_and_goes_on_behind_an_id(self, driver: Driver) -> None:
        listing = self._listing(driver)
        driver.send([outgoing(str(number).encode()) for number in range(5)])

        first = list(listing.peek(3))
        rest = list(listing.peek(10, after=first[-1].transport_id))

        assert sorted(each.body for each in first + rest) == [b"0", b"1", b"2", b"3", b"4"]
        assert len(first) == 3
        assert len(receive(driver, 5)) == 5

    def test_looking_tells_the_state_of_a_message(self, driver: Driver) -> None:
        listing = self._listing(driver)
        driver.send([outgoing(b"held")])
        receive(driver, 1)
        driver.send([outgoing(b"waits"), outgoing(b"later", delay_ms=60_000)])

        assert {each.body: each.state for each in listing.peek(10)} == {
            b"held": "in_flight",
            b"waits": "ready",
            b"later": "delayed",
        }

    def test_a_message_can_be_taken_by_its_id(self, driver: Driver) -> None:
        listing = self._listing(driver)
        driver.send([outgoing(b"other"), outgoing(b"wanted", headers={"a": "b"})])
        wanted = next(each for each in listing.peek(10) if each.body == b"wanted")

        taken = listing.take(str(wanted.transport_id))

        assert taken is not None
        assert (taken.body, dict(taken.headers)) == (b"wanted", {"a": "b"})
        assert bodies(receive(driver, 1)) == [b"other"]
        assert list(driver.settle([Ack(taken.claim)])) == []
        assert listing.take(wanted.transport_id) is None

    def test_a_held_or_unknown_message_cannot_be_taken(self, driver: Driver) -> None:
        listing = self._listing(driver)
        driver.send([outgoing()])
        claim = receive(driver, 1)[0].claim

        assert listing.take(claim.transport_id) is None
        assert listing.take("999999") is None
        assert listing.take("no such id") is None

    def test_a_delayed_message_can_be_taken(self, driver: Driver) -> None:
        listing = self._listing(driver)
        driver.send([outgoing(b"later", delay_ms=60_000)])

        taken = listing.take(listing.peek(1)[0].transport_id)

        assert taken is not None
        driver.close()
        assert [each.state for each in listing.peek(1)] == ["delayed"]

    @requires("parks")
    def test_a_parked_message_can_be_taken_and_goes_back_parked(self, driver: Driver) -> None:
        listing = self._listing(driver)
        driver.send([outgoing()])
        driver.settle([Park(receive(driver, 1)[0].claim, outgoing(b"parked"))])

        taken = listing.take(listing.peek(1)[0].transport_id)

        assert taken is not None
        assert taken.body == b"parked"
        driver.close()
        assert [each.state for each in listing.peek(1)] == ["parked"]
        assert list(driver.get(10)) == []

    def _listing(self, driver: Driver) -> Lists:
        if not isinstance(driver, Lists):
            pytest.skip(f"{type(self).__name__} cannot list messages")
        return driver


def _numbers(counts: Counts) -> Sequence[int | None]:
    return (counts.ready, counts.delayed, counts.in_flight, counts.parked)
