from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bus.errors import WorkerProcessesError
from bus.fleet import Fleet
from bus.life_line import Order, Progress, Report
from bus.places import Member
from bus.testing.clock import FakeClock

STARTED, READY = Report(Progress.STARTED), Report(Progress.READY)
FINISHED, WORN_OUT = Report(Progress.FINISHED), Report(Progress.WORN_OUT)
REFUSED = Report(Progress.REFUSED, 3, "there is no such module")
GRACE = 25.0
KILLED = -9


@dataclass(eq=False)
class FakeProcess:
    pid: int
    orders: list[Order] = field(default_factory=list)
    killed: bool = False

    def send(self, order: Order) -> None:
        self.orders.append(order)

    def kill(self) -> None:
        self.killed = True


class Site:
    """A fleet of fake processes."""

    def __init__(self, size: int, time_limit: float | None = None) -> None:
        self.clock = FakeClock()
        self.started: list[FakeProcess] = []
        self.broken = False
        self.fleet = Fleet(size, self._start, shutdown_timeout=GRACE, time_limit=time_limit, clock=self.clock)
        self.fleet.act()

    def _start(self) -> FakeProcess:
        if self.broken:
            raise OSError("no room")
        process = FakeProcess(100 + len(self.started))
        self.started.append(process)
        return process

    def member(self, number: int) -> Member:
        return next(each for each in self.fleet.members() if each.process is self.started[number])

    def hear(self, number: int, *reports: Report) -> None:
        for report in reports:
            self.fleet.hear(self.member(number), report)
        self.fleet.act()

    def all_ready(self) -> None:
        for number in range(len(self.started)):
            self.hear(number, STARTED, READY)

    def end(self, number: int, exit_code: int = KILLED) -> float | None:
        """End a process; return the seconds until something is due."""
        self.fleet.end(self.member(number), exit_code)
        return self.fleet.act()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.fleet.act()

    @property
    def living(self) -> list[int]:
        return [self.started.index(each.process) for each in self.fleet.members()]  # type: ignore[arg-type]

    def failure(self) -> WorkerProcessesError:
        assert self.fleet.failure is not None
        return self.fleet.failure


def test_a_dead_process_is_replaced_alone_after_a_pause():
    site = Site(3)
    site.all_ready()

    assert site.end(1) == 0.5
    assert site.living == [0, 2]
    site.wait(0.5)

    assert site.living == [0, 3, 2]
    assert [each.orders for each in site.started] == [[]] * 4


def test_the_pause_doubles_up_to_30_s_and_begins_anew_after_a_longer_life():
    site = Site(1)
    pauses = []
    for number in range(8):
        site.hear(number, STARTED, READY)
        pauses.append(site.end(number))
        site.wait(pauses[-1] or 0)
    site.hear(8, STARTED, READY)
    site.wait(30.0)

    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert site.end(8) == 0.5


def test_processes_that_die_after_their_start_are_replaced_without_limit():
    site = Site(1)
    for number in range(50):
        site.hear(number, STARTED)
        site.wait(site.end(number) or 0)

    assert site.fleet.failure is None
    assert len(site.started) == 51


@pytest.mark.parametrize("exit_code", [0, 1, -11])
def test_an_exit_code_of_0_without_a_word_is_a_death_too(exit_code):
    site = Site(1)
    site.all_ready()

    assert site.end(0, exit_code) == 0.5


def test_five_processes_that_die_before_their_start_within_a_minute_end_the_fleet():
    site = Site(2)
    site.hear(0, STARTED, READY)
    for number in range(1, 6):
        site.wait(site.end(number, 1) or 0)

    assert site.failure().exit_code == 5
    assert str(site.failure()) == (
        "5 worker processes ended within 60 s and before they were ready; the last one ended with exit code 1"
    )
    assert site.started[0].orders == [Order.STOP]
    assert not site.fleet.over
    site.end(0, 0)
    assert site.fleet.over


def test_five_processes_that_die_before_their_start_in_more_than_a_minute_do_not():
    site = Site(1)
    for number in range(10):
        site.wait(14.0)
        site.wait(site.end(number) or 0)

    assert site.fleet.failure is None


def test_what_a_first_process_states_ends_the_fleet_at_once():
    site = Site(2)
    site.hear(1, REFUSED)
    site.end(1, 3)

    assert site.failure().exit_code == 3
    assert str(site.failure()) == "there is no such module"
    assert site.started[0].orders == [Order.STOP]


def test_what_a_later_process_states_counts_as_a_crash_and_is_shown():
    site = Site(1)
    site.all_ready()
    site.wait(site.end(0) or 0)
    for number in range(1, 6):
        site.hear(number, STARTED, REFUSED)
        site.wait(site.end(number, 3) or 0)

    assert site.failure().exit_code == 5
    assert str(site.failure()).endswith("the last one ended with exit code 3 (there is no such module)")


def test_a_process_that_has_finished_is_not_replaced_and_the_last_one_ends_the_fleet():
    site = Site(2)
    site.all_ready()
    site.hear(0, FINISHED)
    site.end(0, 0)
    assert site.living == [1]
    site.hear(1, FINISHED)

    assert site.end(1, 0) is None
    assert site.fleet.over
    assert site.fleet.failure is None


def test_a_process_that_has_used_up_its_memory_is_replaced_at_once_but_once_a_second():
    site = Site(1)
    site.all_ready()
    site.wait(600)
    site.hear(0, WORN_OUT)
    site.end(0, 0)
    assert site.living == [1]
    site.hear(1, STARTED, WORN_OUT)

    assert site.end(1, 0) == pytest.approx(1.0)


def test_processes_are_replaced_one_by_one_each_when_its_successor_is_ready():
    site = Site(2)
    site.all_ready()
    site.fleet.replace_all()
    site.fleet.act()
    assert site.living == [0, 2, 1]
    site.hear(2, STARTED)
    assert site.started[0].orders == []
    site.hear(2, READY)
    assert site.started[0].orders == [Order.STOP]
    assert len(site.started) == 3, "the next one waits for the end of the first"
    site.end(0, 0)
    assert site.living == [2, 1, 3]
    site.hear(3, STARTED, READY)
    site.end(1, 0)

    assert site.living == [2, 3]
    assert len(site.started) == 4


def test_a_successor_that_dies_before_it_is_ready_leaves_the_present_ones_in_place():
    site = Site(2)
    site.all_ready()
    for number in range(2, 12):
        site.fleet.replace_all()
        site.fleet.act()
        site.hear(number, REFUSED)
        site.end(number, 3)

    assert site.living == [0, 1]
    assert site.fleet.failure is None
    assert [each.orders for each in site.started[:2]] == [[], []]


def test_replacing_again_in_between_replaces_the_new_ones_too():
    site = Site(2)
    site.all_ready()
    site.fleet.replace_all()
    site.fleet.act()
    site.hear(2, STARTED, READY)
    site.fleet.replace_all()
    for old, new in ((0, 3), (2, 4)):
        site.end(old, 0)
        site.hear(new, STARTED, READY)
    site.end(1, 0)

    assert site.living == [3, 4]


def test_a_process_that_dies_while_its_successor_starts_leaves_it_the_place():
    site = Site(1)
    site.all_ready()
    site.fleet.replace_all()
    site.fleet.act()
    site.end(0)
    assert site.living == [1]
    site.hear(1, STARTED, READY)

    assert site.fleet.act() is None
    assert site.living == [1]
    assert site.started[1].orders == []


def test_a_successor_of_a_process_that_finishes_is_not_needed():
    site = Site(1)
    site.all_ready()
    site.fleet.replace_all()
    site.fleet.act()
    site.hear(0, FINISHED)
    site.end(0, 0)
    assert site.started[1].orders == [Order.STOP]
    site.hear(1, STARTED, READY)
    site.end(1, 0)

    assert site.fleet.over


def test_stopping_waits_for_every_process_and_starts_no_other():
    site = Site(2)
    site.all_ready()
    site.fleet.replace_all()
    site.fleet.act()
    site.fleet.stop("SIGTERM received")
    assert [each.orders for each in site.started] == [[Order.STOP]] * 3
    site.end(0, KILLED)
    site.end(1, 0)
    site.fleet.replace_all()
    site.fleet.act()
    assert not site.fleet.over
    site.end(2, 0)

    assert site.fleet.over
    assert len(site.started) == 3
    assert site.fleet.failure is None


def test_a_fleet_that_waits_to_replace_a_process_stops_at_once():
    site = Site(1)
    site.all_ready()
    site.end(0)
    site.fleet.stop("SIGTERM received")

    assert site.fleet.over


def test_a_process_that_exceeds_its_own_grace_makes_the_fleet_fail():
    site = Site(2)
    site.all_ready()
    site.fleet.stop("SIGTERM received")
    site.end(0, 6)
    site.end(1, 0)

    assert site.failure().exit_code == 6


def test_a_process_that_does_not_end_long_after_its_grace_is_killed():
    site = Site(2)
    site.all_ready()
    site.fleet.stop("SIGTERM received")
    site.end(1, 0)
    site.wait(GRACE + 6.9)
    assert not site.started[0].killed
    site.wait(0.2)
    assert site.started[0].killed
    site.end(0)

    assert site.failure().exit_code == 6


def test_a_process_that_has_finished_and_hangs_is_killed_and_not_replaced():
    site = Site(1)
    site.all_ready()
    site.hear(0, FINISHED)
    site.wait(GRACE + 7.0)
    assert site.started[0].killed
    site.end(0)

    assert site.fleet.over
    assert site.fleet.failure is None


def test_leaving_gives_processes_little_time():
    site = Site(1)
    site.all_ready()
    site.fleet.stop("SIGTERM received")
    site.fleet.leave()
    assert site.started[0].orders == [Order.STOP, Order.LEAVE]
    site.wait(7.0)

    assert site.started[0].killed


def test_the_time_limit_stops_all_of_them():
    site = Site(2, time_limit=60.0)
    site.all_ready()
    site.wait(59.0)
    assert site.started[0].orders == []
    site.wait(1.0)

    assert [each.orders for each in site.started] == [[Order.STOP], [Order.STOP]]


def test_a_system_without_room_for_a_process_is_asked_again():
    site = Site(1)
    site.all_ready()
    site.broken = True
    site.wait(site.end(0) or 0)
    assert site.living == []
    site.broken = False
    site.wait(1.0)

    assert site.living == [1]
