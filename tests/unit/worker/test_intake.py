from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from bus.errors import AccessDeniedError, ConfigurationError, ConnectionLostError
from bus.intake import Intake
from bus.messages import MessageTypes
from bus.serializer import JsonSerializer
from bus.testing.clock import FakeClock
from bus.transports.base import Claim, Delivery, Outgoing, Settlement
from bus.transports.transport import Transport
from bus.worker_options import WorkerOptions


class ScriptedDriver:
    """Answers ``get`` with what a test put into ``answers``: a number of messages, or an error; then with nothing."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.asked_for: list[int] = []
        self.deliveries = 1
        self.settle_error: Exception | None = None
        self.closed = 0
        self.close: Callable[[], None] = self._close
        self._ids = itertools.count(1)

    def get(self, limit: int) -> Sequence[Delivery]:
        self.asked_for.append(limit)
        answer = self.answers.pop(0) if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        claims = [Claim(next(self._ids), self.deliveries, "queue") for _ in range(min(answer, limit))]
        return [Delivery(b"{}", {}, claim) for claim in claims]

    def send(self, batch: Sequence[Outgoing]) -> Sequence[object]:
        raise AssertionError("nothing is sent here")

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        if self.settle_error is not None:
            raise self.settle_error
        return []

    def _close(self) -> None:
        self.closed += 1


class WakingDriver(ScriptedDriver):
    wake: Callable[[], None]

    def on_arrival(self, wake: Callable[[], None]) -> None:
        self.wake = wake


def transport_over(driver: ScriptedDriver, name: str = "async") -> Transport:
    return Transport(name, driver, JsonSerializer(MessageTypes()))


def intake_over(
    *drivers: ScriptedDriver, clock: FakeClock | None = None, rings: list[int] | None = None, **options: object
) -> Intake:
    transports = [transport_over(driver, f"t{number}") for number, driver in enumerate(drivers)]
    given = WorkerOptions(**options)  # type: ignore[arg-type]
    heard = rings if rings is not None else []
    return Intake(transports, given, clock or FakeClock(), lambda: heard.append(1))


def fetch(intake: Intake, most: int = 1000, *, starved: bool = True) -> int:
    return len(intake.fetch(most, starved=starved))


def end(intake: Intake, count: int, position: int = 0, seconds: float = 60.0) -> None:
    for _ in range(count):
        intake.receivers[position].window.ended(seconds)


def test_the_first_receiver_with_messages_is_the_one_that_gives():
    first, second = ScriptedDriver(0, 1), ScriptedDriver(1)
    intake = intake_over(first, second)

    messages = intake.fetch(1000, starved=True)

    assert [each.receiver for each in messages] == [1]


def test_the_second_receiver_is_not_asked_when_the_first_gives():
    first, second = ScriptedDriver(1), ScriptedDriver(1)

    fetch(intake_over(first, second))

    assert second.asked_for == []


def test_an_empty_receiver_is_asked_at_most_every_100_ms_and_then_every_second():
    clock, driver = FakeClock(), ScriptedDriver()
    intake = intake_over(driver, clock=clock)

    for _ in range(1000):
        fetch(intake)
        clock.advance(0.01)

    # 0.1 + 0.2 + 0.4 + 0.8 s, and then nearly nine times one second
    assert len(driver.asked_for) == 13


def test_a_receiver_that_can_wake_is_asked_as_soon_as_it_does():
    clock, driver, rings = FakeClock(), WakingDriver(0, 2), []
    intake = intake_over(driver, clock=clock, rings=rings)
    assert fetch(intake) == 0
    assert fetch(intake) == 0

    driver.wake()

    assert rings == [1]
    assert intake.seconds_until_due(starved=True) == 0
    assert fetch(intake) == 1
    assert driver.asked_for == [1, 1]


def test_no_more_than_the_window_is_asked_for():
    driver = ScriptedDriver(1, 100, 100)
    intake = intake_over(driver, fetch_size=10)

    assert [fetch(intake), fetch(intake), fetch(intake)] == [1, 9, 0]
    assert driver.asked_for == [1, 9]


def test_no_more_is_asked_for_than_the_worker_may_have():
    driver = ScriptedDriver(1, 100)
    intake = intake_over(driver, fetch_size=10)
    fetch(intake)

    fetch(intake, 4)

    assert driver.asked_for == [1, 4]


def test_a_worker_that_has_something_to_do_waits_until_half_of_the_window_is_free():
    driver = ScriptedDriver(1, 9, 100)
    intake = intake_over(driver, fetch_size=10)
    fetch(intake)
    fetch(intake)

    end(intake, 4)
    assert fetch(intake, starved=False) == 0
    end(intake, 1)
    assert fetch(intake, starved=False) == 5


def test_a_worker_without_anything_to_begin_takes_what_is_free():
    driver = ScriptedDriver(1, 9, 100)
    intake = intake_over(driver, fetch_size=10)
    fetch(intake)
    fetch(intake)

    end(intake, 1)

    assert fetch(intake, starved=True) == 1


def test_a_settlement_that_cannot_be_carried_out_takes_its_place_in_the_window(eventually):
    driver = ScriptedDriver(1, 1)
    driver.settle_error = ConnectionLostError("gone")
    intake = intake_over(driver, fetch_size=1)
    (message,) = intake.fetch(1000, starved=True)
    intake.receivers[0].transport.ack(message.envelope)
    end(intake, 1)

    assert fetch(intake) == 0
    assert not intake.healthy
    driver.settle_error = None

    eventually(lambda: fetch(intake) == 1)
    assert intake.healthy


def test_a_receiver_that_cannot_be_read_is_left_alone_while_the_others_go_on(caplog):
    clock = FakeClock()
    down, up = ScriptedDriver(*[ConnectionLostError("no route")] * 100), ScriptedDriver(*[9] * 100)
    intake = intake_over(down, up, clock=clock)

    for _ in range(100):
        end(intake, fetch(intake), position=1)
        clock.advance(0.01)

    assert len(up.asked_for) > 50
    assert len(down.asked_for) <= 3
    assert caplog.messages[0].startswith('Transport "t0" cannot be read: ConnectionLostError: no route; trying again')
    assert caplog.records[0].levelno == logging.WARNING


def test_a_receiver_that_was_down_for_90_s_is_asked_a_dozen_times_and_read_within_30_s(caplog):
    clock = FakeClock()
    driver = ScriptedDriver(*[ConnectionLostError("no route")] * 1000)
    intake = intake_over(driver, clock=clock)
    for _ in range(900):
        fetch(intake)
        clock.advance(0.1)
    assert 6 <= len(driver.asked_for) <= 12

    driver.answers = [1]
    with caplog.at_level(logging.INFO):
        caplog.clear()
        waited = 0.0
        while fetch(intake) == 0:
            clock.advance(0.1)
            waited += 0.1

    assert waited <= 30.1
    assert caplog.messages == ['Transport "t0" can be read again']


def test_after_a_lost_connection_one_message_is_asked_for():
    clock = FakeClock()
    driver = ScriptedDriver(1, ConnectionLostError("gone"), 1, 1)
    intake = intake_over(driver, clock=clock, fetch_size=10)
    fetch(intake)
    fetch(intake)
    end(intake, 1)
    clock.advance(30)

    fetch(intake)
    fetch(intake)

    assert driver.asked_for == [1, 9, 1, 9]


def test_wrong_credentials_at_the_first_contact_end_the_worker():
    with pytest.raises(AccessDeniedError):
        fetch(intake_over(ScriptedDriver(AccessDeniedError("who are you"))))


def test_credentials_that_stop_working_later_are_an_error_in_the_log(caplog):
    driver = ScriptedDriver(1, AccessDeniedError("who are you"))
    intake = intake_over(driver, fetch_size=10)
    fetch(intake)

    assert fetch(intake) == 0

    assert caplog.messages[0].startswith('Transport "t0" denies access: AccessDeniedError: who are you; trying again')
    assert caplog.records[0].levelno == logging.ERROR


def test_a_receiver_that_cannot_be_consumed_as_it_is_ends_the_worker():
    with pytest.raises(ConfigurationError):
        fetch(intake_over(ScriptedDriver(ConfigurationError("add this column"))))


@pytest.mark.parametrize("error", [ConnectionLostError("gone"), RuntimeError("a defect")], ids=repr)
def test_with_fail_fast_any_error_ends_the_worker(error):
    with pytest.raises(type(error)):
        fetch(intake_over(ScriptedDriver(error), fail_fast=True))


def test_a_defect_of_a_driver_is_logged_whole_and_tried_again(caplog):
    clock, driver = FakeClock(), ScriptedDriver(RuntimeError("a defect"), 1)
    intake = intake_over(driver, clock=clock)

    assert fetch(intake) == 0
    clock.advance(1)

    assert fetch(intake) == 1
    assert "a defect" in caplog.text
    assert "Traceback" in caplog.text


def test_a_receiver_that_fails_to_close_does_not_keep_the_others_open(caplog):
    def fail() -> None:
        raise ConnectionLostError("gone")

    first, second = ScriptedDriver(), ScriptedDriver()
    first.close = fail

    intake_over(first, second).close()

    assert second.closed == 1
    assert 'Transport "t0" was not closed cleanly: ConnectionLostError: gone' in caplog.text


def test_letting_go_in_an_emergency_does_not_wait_for_a_receiver_that_hangs(monkeypatch):
    monkeypatch.setattr("bus.intake._CLOSING", 0.2)
    never = threading.Event()
    hanging, good = ScriptedDriver(), ScriptedDriver()
    hanging.close = lambda: never.wait(30) and None

    began = time.monotonic()
    intake_over(hanging, good).abandon()
    took = time.monotonic() - began
    never.set()

    assert took < 5
    assert good.closed == 1
