"""The figures that the tests of faults print at the end of a run."""

from __future__ import annotations

import os
import platform
import sqlite3
from dataclasses import asdict, dataclass, field

from tests.faults.ledger import Totals


@dataclass
class Figures:
    """Collects figures. ``seed`` is what a run is repeated with: ``BUS_TEST_SEED``."""

    seed: int = field(default_factory=lambda: int(os.environ.get("BUS_TEST_SEED", "20261123")))
    values: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, name: str, totals: Totals | None = None, **values: float) -> None:
        """Note one figure; with a ledger's totals, all of those.

        Under one name counts add up, and of times (floats, in seconds) the longest stays.
        """
        noted = self.values.setdefault(name, {})
        for key, value in {**values, **(asdict(totals) if totals is not None else {})}.items():
            earlier = noted.get(key, 0)
            noted[key] = max(earlier, value) if isinstance(value, float) else earlier + value

    def lines(self) -> list[str]:
        """Return one line per figure, below one that says on what they were taken."""
        header = (
            f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, "
            f"one machine, seed {self.seed}"
        )
        return [header, *(f"{name}: {_text(values)}" for name, values in self.values.items())]


def _text(values: dict[str, float]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, int) else f'{value:.2f} s'}"
        for key, value in values.items()
    )
