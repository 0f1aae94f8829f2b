"""Which worker processes there should be: when one is started, replaced, stopped and killed. It does no I/O itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

from bus.clock import Clock, SystemClock
from bus.errors import WorkerProcessesError, describe
from bus.life_line import Order, Progress, Report
from bus.places import CRASH_PERIOD, CRASHES, Crashes, Member, Place, WorkerProcess

logger = logging.getLogger(__name__)

EXIT_CRASH_LOOP: Final = 5
EXIT_GRACE_EXCEEDED: Final = 6

_SHORTEST_LIFE: Final = 1.0  # seconds between two starts where nobody died
# Seconds beyond its own grace after which a process is killed: it gives its claims back within 5 s, and says what was
# running within 1 s.
_MARGIN: Final = 7.0


class Fleet:
    """Decides about a number of worker processes. For one thread, which tells it what happens and calls ``act``.

    ``failure`` is why it ended, where that was not by a limit or because it was stopped.
    """

    def __init__(
        self,
        size: int,
        start: Callable[[], WorkerProcess],
        *,
        shutdown_timeout: float,
        time_limit: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Make a fleet without processes; ``act`` starts them.

        Args:
            size: how many processes.
            start: starts one; may raise OSError.
            shutdown_timeout: the grace in seconds that each process keeps by itself.
            time_limit: seconds after which all are stopped.
            clock: for tests.
        """
        self.failure: WorkerProcessesError | None = None
        self._start_process = start
        self._shutdown_timeout = shutdown_timeout
        self._time_limit = time_limit
        self._clock = clock or SystemClock()
        now = self._clock.monotonic()
        self._ends = None if time_limit is None else now + time_limit
        self._places = [Place(due=now) for _ in range(size)]
        self._firsts = size  # processes that are not started for the first time yet
        self._generation = 0
        self._replacing = False
        self._stopping = False
        self._crashes = Crashes()

    @property
    def over(self) -> bool:
        """Whether no process lives and none will be started."""
        return not any(place.members or place.due is not None for place in self._places)

    def members(self) -> Iterator[Member]:
        """Yield every process that has not ended."""
        for place in self._places:
            yield from place.members

    # --- what it is told ---

    def stop(self, reason: str) -> None:
        """Have every process finish what it has begun and end. Idempotent."""
        if self._stopping:
            return
        logger.info("Stopping %d worker processes: %s", sum(1 for _ in self.members()), reason)
        self._stopping = True
        for place in self._places:
            place.due = None
            for member in place.members:
                self._stop(member)

    def leave(self) -> None:
        """Have every process give up what it has begun and end."""
        for member in self.members():
            member.process.send(Order.LEAVE)
            member.kill_at = self._clock.monotonic() + _MARGIN

    def replace_all(self) -> None:
        """Replace every process, one after the other; a present one is stopped when its successor is ready."""
        if self._stopping:
            return
        logger.info("Replacing the worker processes one by one")
        self._generation += 1
        self._replacing = True

    def hear(self, member: Member, report: Report) -> None:
        """Take note of what a process says of itself."""
        if report.progress not in (Progress.STARTED, Progress.READY):
            member.last_word = report
            self._let_end(member)
            return
        member.progress = report.progress
        for place in self._places:
            if place.successor is member and report.progress is Progress.READY:
                place.hand_over()
                if place.leaving is not None:
                    self._stop(place.leaving)

    def end(self, member: Member, exit_code: int) -> None:
        """Take note of the end of a process."""
        place = next(each for each in self._places if member in each.members)
        was_leaving, was_successor = member is place.leaving, member is place.successor
        place.remove(member)
        if self._stopping:
            self._ended_while_stopping(member, exit_code)
        elif was_leaving:
            logger.info("Worker process %d has been replaced", member.pid)
        elif place.finished:
            logger.info("Worker process %d is not needed any more", member.pid)
        elif was_successor and place.current is not None:
            self._replacing = False
            logger.error(
                "Worker process %d was to replace another one, and %s before it was ready; the present ones go on",
                member.pid,
                member.describe_end(exit_code),
            )
        else:
            self._follow(place, member, exit_code)

    # --- what it does ---

    def act(self) -> float | None:
        """Do what is due; return the seconds until something is due again, None when nothing will be by itself."""
        now = self._clock.monotonic()
        if self._ends is not None and now >= self._ends:
            self._ends = None
            self.stop(f"time limit of {self._time_limit:g} s reached")
        for place in self._places:
            if place.due is not None and now >= place.due:
                place.due = None
                place.current = self._start(place)
            for member in place.members:
                if member.kill_at is not None and now >= member.kill_at:
                    self._kill(member)
        if self._replacing and not any(each.successor or each.leaving for each in self._places):
            self._replace_next()
        times = [self._ends, *(each.due for each in self._places), *(each.kill_at for each in self.members())]
        earliest = min((each for each in times if each is not None), default=None)
        return None if earliest is None else max(0.0, earliest - self._clock.monotonic())

    def _start(self, place: Place) -> Member | None:
        is_first = self._firsts > 0
        self._firsts -= 1
        try:
            process = self._start_process()
        except OSError as error:
            pause = place.plan(self._clock.monotonic())
            logger.error("No worker process can be started: %s; trying again in %.1f s", describe(error), pause)
            return None
        logger.info("Worker process %d started", process.pid)
        return Member(process, self._generation, is_first, self._clock.monotonic())

    def _replace_next(self) -> None:
        for place in self._places:
            if place.current is not None and place.current.generation < self._generation:
                place.successor = self._start(place)
                return
        self._replacing = False
        logger.info("Every worker process has been replaced")

    def _follow(self, place: Place, member: Member, exit_code: int) -> None:
        """Decide what follows a process that ended by itself and held its place."""
        now = self._clock.monotonic()
        if member.verdict is Progress.FINISHED:
            place.finished = True
            if place.successor is not None:
                self._stop(place.successor)
        elif place.successor is not None:
            logger.warning("Worker process %d %s", member.pid, member.describe_end(exit_code))
        elif member.verdict is Progress.WORN_OUT:
            logger.info("Worker process %d has reached its memory limit; a new one takes its place", member.pid)
            place.due = max(now, member.born + _SHORTEST_LIFE)
        elif member.is_first and member.verdict is Progress.REFUSED and member.last_word is not None:
            self._fail(member.last_word.text, member.last_word.exit_code)
        elif not member.has_started and self._crashes.count(now):
            self._fail(
                f"{CRASHES} worker processes ended within {CRASH_PERIOD:g} s and before they were ready; "
                f"the last one {member.describe_end(exit_code)}",
                EXIT_CRASH_LOOP,
            )
        else:
            logger.warning(
                "Worker process %d %s%s; a new one starts in %.1f s",
                member.pid,
                member.describe_end(exit_code),
                "" if member.has_started else " before it was ready",
                place.plan(now, now - member.born),
            )

    def _fail(self, text: str, exit_code: int) -> None:
        self.failure = WorkerProcessesError(text, exit_code)
        self.stop("they cannot start")

    def _stop(self, member: Member) -> None:
        member.process.send(Order.STOP)
        self._let_end(member)

    def _let_end(self, member: Member) -> None:
        if member.kill_at is None:
            member.kill_at = self._clock.monotonic() + self._shutdown_timeout + _MARGIN

    def _kill(self, member: Member) -> None:
        logger.error("Worker process %d has not ended in time and is killed", member.pid)
        member.process.kill()
        member.kill_at = None
        self._grace_exceeded()

    def _ended_while_stopping(self, member: Member, exit_code: int) -> None:
        if exit_code == EXIT_GRACE_EXCEEDED:
            self._grace_exceeded()
        elif exit_code != 0 and member.has_started:
            logger.warning("Worker process %d %s", member.pid, member.describe_end(exit_code))

    def _grace_exceeded(self) -> None:
        if self._stopping and self.failure is None:
            self.failure = WorkerProcessesError(
                "Handlers were still running when the time to shut down was over; their messages are given back.",
                EXIT_GRACE_EXCEEDED,
            )
