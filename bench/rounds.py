"""Alternating rounds, medians and a Markdown table: the same yardstick for every benchmark."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Cost:
    """What one operation took: seconds on the wall clock, and seconds of processor time of this process."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Figure:
    """The median cost of a contestant over its rounds, in microseconds, and the spread of the wall clock."""

    wall: float
    cpu: float
    lowest: float
    highest: float

    @property
    def per_second(self) -> float:
        return 1e6 / self.wall

    @property
    def spread(self) -> str:
        return f"{self.lowest:,.2f} to {self.highest:,.2f}"


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
    return {name: _figure(each) for name, each in costs.items()}


def _figure(costs: Sequence[Cost]) -> Figure:
    walls = [cost.wall * 1e6 for cost in costs]
    cpu = statistics.median(cost.cpu * 1e6 for cost in costs)
    return Figure(statistics.median(walls), cpu, min(walls), max(walls))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first hold numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(name: str, title: str, text: str, packages: Sequence[str]) -> None:
    """Print a result and write it to ``bench/results/<name>.md``, with what it was measured on."""
    versions = "".join(f", {package} {version(package)}" for package in packages)
    page = (
        f"# {title}\n\n{text}\n\n"
        f"Measured by `scripts/bench {name}` with Python {platform.python_version()}{versions} "
        f"on {platform.system()}, {os.cpu_count()} processors.\n"
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page)
    sys.stdout.write(page)
