"""The places of a fleet: who holds each, and how long it stays empty after a death."""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

from bus.life_line import Order, Progress, Report

CRASHES: Final = 5  # so many deaths before a start was reported ...
CRASH_PERIOD: Final = 60.0  # ... within so many seconds are a crash loop
_FIRST_PAUSE: Final = 0.5  # seconds before a dead process is replaced, doubling
_LONGEST_PAUSE: Final = 30.0
_LIVED_A_WHILE: Final = 30.0  # seconds after which a death is not held against the next process


class WorkerProcess(Protocol):
    """A worker process that was started."""

    @property
    def pid(self) -> int:
        """The number of the process."""

    def send(self, order: Order) -> None:
        """Give it an order. Harmless when it is dead."""

    def kill(self) -> None:
        """End it at once. Harmless when it is dead."""


@dataclass(slots=True, eq=False)
class Member:
    """A worker process of the fleet. ``kill_at`` is set when it is to end, and is the time when it must have."""

    process: WorkerProcess
    generation: int
    is_first: bool
    born: float
    progress: Progress | None = None
    last_word: Report | None = None
    kill_at: float | None = None

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.process.pid

    @property
    def verdict(self) -> Progress | None:
        """What it said last, about its own end."""
        return self.last_word.progress if self.last_word is not None else None

    @property
    def has_started(self) -> bool:
        """Whether it came as far as to work."""
        return self.progress is not None and self.verdict is not Progress.REFUSED

    def describe_end(self, exit_code: int) -> str:
        """Return how it ended, in words that follow its name."""
        if exit_code >= 0:
            how = f"ended with exit code {exit_code}"
        else:
            names = {each.value: each.name for each in signal.Signals}
            how = f"was killed by {names.get(-exit_code, f'signal {-exit_code}')}"
        return f"{how} ({self.last_word.text})" if self.last_word is not None and self.last_word.text else how


@dataclass(slots=True, eq=False)
class Place:
    """Room for one worker process.

    Attributes:
        current: who holds it.
        successor: who takes it over as soon as it is ready.
        leaving: who held it, and finishes what it has begun.
        due: when a new process is to be started; None: not at all.
        finished: whether a limit was reached, so that nobody is to hold it any more.
    """

    current: Member | None = None
    successor: Member | None = None
    leaving: Member | None = None
    due: float | None = None
    finished: bool = False
    _pause: float = _FIRST_PAUSE

    @property
    def members(self) -> list[Member]:
        """Every process that belongs to this place."""
        return [each for each in (self.current, self.successor, self.leaving) if each is not None]

    def remove(self, member: Member) -> None:
        """Let go of a process that has ended."""
        if self.current is member:
            self.current = None
        elif self.successor is member:
            self.successor = None
        elif self.leaving is member:
            self.leaving = None

    def hand_over(self) -> None:
        """Let the successor hold this place; who held it is leaving."""
        self.leaving, self.current, self.successor = self.current, self.successor, None

    def plan(self, now: float, lived: float = 0.0) -> float:
        """Plan the next start after a process that ``lived`` so many seconds; return the seconds until then."""
        if lived >= _LIVED_A_WHILE:
            self._pause = _FIRST_PAUSE
        pause = self._pause
        self.due = now + pause
        self._pause = min(pause * 2, _LONGEST_PAUSE)
        return pause


@dataclass(slots=True)
class Crashes:
    """Deaths of processes that never started to work."""

    _times: deque[float] = field(default_factory=lambda: deque(maxlen=CRASHES))

    def count(self, now: float) -> bool:
        """Count one; True when that makes it a loop."""
        self._times.append(now)
        return len(self._times) == CRASHES and now - self._times[0] <= CRASH_PERIOD
