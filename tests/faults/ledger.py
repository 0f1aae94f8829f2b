"""What was sent and what became of it: the sets of Jepsen's total-queue checker.

Handlers append one line per event to a file. A line is written by one system call, so that SIGKILL leaves no half of
one, and what a killed process wrote stays.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BEGUN = "begun"
DONE = "done"


@dataclass(frozen=True)
class Event:
    """``what`` happened to message ``number`` in process ``pid``, at ``at`` seconds since the epoch."""

    what: str
    number: int
    pid: int
    at: float


@dataclass(frozen=True)
class Totals:
    """``ok``, ``lost`` and ``duplicated`` are of the acknowledged ones; ``repeats`` counts the effects too many."""

    attempted: int
    acknowledged: int
    ok: int
    in_failure_transport: int
    lost: int
    duplicated: int
    repeats: int
    unexpected: int
    recovered: int
    effects: int


class Journal:
    """The file to which handlers write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_up_to = 0
        self._events: list[Event] = []
        self._counts: Counter[tuple[str, int | None]] = Counter()

    def write(self, what: str, number: int) -> None:
        line = f"{what} {number} {os.getpid()} {time.time():.6f}\n".encode()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    def events(self) -> list[Event]:
        """Return every event so far. Only what is new is read."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read_up_to)
                new = file.read()
            complete = new[: new.rfind(b"\n") + 1]
            self._read_up_to += len(complete)
            for line in complete.decode().splitlines():
                what, number, pid, at = line.split()
                self._events.append(Event(what, int(number), int(pid), float(at)))
                self._counts.update(((what, int(number)), (what, None)))
        return self._events

    def of(self, what: str) -> list[Event]:
        return [event for event in self.events() if event.what == what]

    def count(self, what: str, number: int | None = None) -> int:
        """Return how often something happened, to one message or to any."""
        self.events()
        return self._counts[what, number]

    def effects(self) -> Counter[int]:
        """Return how often each message was handled to the end."""
        return Counter(event.number for event in self.of(DONE))


class Ledger:
    """What a test sent, beside the journal of what was handled."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.attempted: set[int] = set()
        self.acknowledged: set[int] = set()

    def totals(self, failed: Iterable[int]) -> Totals:
        """Count, given the messages that stand in the failure transport."""
        effects, failed = self.journal.effects(), set(failed)
        seen = effects.keys() | failed
        return Totals(
            attempted=len(self.attempted),
            acknowledged=len(self.acknowledged),
            ok=len(self.acknowledged & effects.keys()),
            in_failure_transport=len(failed),
            lost=len(self.acknowledged - seen),
            duplicated=sum(1 for number in effects if effects[number] > 1),
            repeats=sum(count - 1 for count in effects.values()),
            unexpected=len(seen - self.attempted),
            recovered=len((seen & self.attempted) - self.acknowledged),
            effects=effects.total(),
        )
