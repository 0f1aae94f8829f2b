"""What a benchmark leaves behind: a page of Markdown and a plot in ``bench/results/``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SMOKE = Path("var/bench")


@dataclass(frozen=True)
class Run:
    """One run of a benchmark: how large it is, and where its results go."""

    name: str
    quick: bool
    results: Path

    @classmethod
    def from_command_line(cls, name: str, description: str) -> Run:
        """Read ``--quick``: small counts, to see that the benchmark works; its results go to ``var/bench/``."""
        parser = argparse.ArgumentParser(prog=f"scripts/bench {name}", description=description)
        parser.add_argument("--quick", action="store_true", help=f"small counts; the results go to {SMOKE}/")
        quick = parser.parse_args().quick
        return cls(name, quick, SMOKE if quick else RESULTS)

    def size(self, whole: int, quick: int) -> int:
        """Return how many, depending on how large the run is."""
        return quick if self.quick else whole

    @property
    def plot(self) -> Path:
        """The file for the plot."""
        self.results.mkdir(parents=True, exist_ok=True)
        return self.results / f"{self.name}.png"

    def report(self, title: str, text: str, packages: Sequence[str] = ()) -> None:
        """Print a result and write it to ``<name>.md``, with its plot and what it was measured on."""
        versions = "".join(f", {package} {version(package)}" for package in packages)
        plot = f"![{title}]({self.plot.name})\n\n" if self.plot.exists() else ""
        page = (
            f"# {title}\n\n{text}\n\n{plot}"
            f"Measured by `scripts/bench {self.name}` with Python {platform.python_version()}{versions} "
            f"on {platform.system()}, {os.cpu_count()} processors.\n"
        )
        (self.results / f"{self.name}.md").write_text(page)
        sys.stdout.write(page + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first hold numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
