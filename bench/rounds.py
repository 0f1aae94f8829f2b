"""Alternating rounds and medians: the same yardstick for every benchmark."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one operation took: seconds on the wall clock, and seconds of processor time (user and system).

    The processor time is that of the whole process, all of its threads included.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Figure:
    """The costs of a contestant in its rounds. All that it says is in microseconds, and medians."""

    costs: Sequence[Cost]

    @property
    def wall(self) -> float:
        return statistics.median(cost.wall * 1e6 for cost in self.costs)

    @property
    def cpu(self) -> float:
        return statistics.median(cost.cpu * 1e6 for cost in self.costs)

    @property
    def per_second(self) -> float:
        return 1e6 / self.wall

    @property
    def spread(self) -> str:
        walls = [cost.wall * 1e6 for cost in self.costs]
        return f"{min(walls):,.2f} to {max(walls):,.2f}"

    def added_cpu(self, raw: Figure) -> float:
        """Return the processor time that this contestant needs more than ``raw``, round by round."""
        pairs = zip(self.costs, raw.costs, strict=True)
        return statistics.median((ours.cpu - theirs.cpu) * 1e6 for ours, theirs in pairs)


def cost_of(work: Callable[[], object], operations: int) -> Cost:
    """Do some work once and return what each of its operations took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost((time.perf_counter() - wall) / operations, (time.process_time() - cpu) / operations)


def repeated(operation: Callable[[], object], times: int) -> Callable[[], Cost]:
    """Return a contestant that performs an operation many times."""

    def work() -> None:
        for _ in range(times):
            operation()

    return lambda: cost_of(work, times)


def alternate(contestants: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, Figure]:
    """Let every contestant run once per round, in turn, after a round that does not count.

    What one leaves behind (a warm cache, a busy disk, a hot processor) thereby meets all of them alike. Each begins
    with an emptied garbage collector, which stays on as it does in programs.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            gc.collect()
            cost = contestant()
            if number > 0:
                costs[name].append(cost)
    return {name: Figure(each) for name, each in costs.items()}


def pin_to_one_processor() -> str:
    """Keep this process, and every thread and child that it starts from now on, on one processor; say so.

    Both sides of a comparison of processor times are to be pinned alike: a thread that moves to another processor pays
    for its cold caches, and two threads of Python on two processors pay for the lock between them.
    """
    if not hasattr(os, "sched_setaffinity"):
        return "Nothing is pinned: this system cannot do so."
    # The last one: interrupts are mostly served by the first.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return "All of them are pinned to one processor."
