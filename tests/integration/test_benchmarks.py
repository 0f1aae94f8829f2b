"""The benchmarks still run: each once, with small counts. What they measure then means nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["dispatch", "memory", "sqlite", "waiting", "soak"])
def test_a_quick_run_of_a_benchmark_leaves_a_page_and_a_plot(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "var" / "bench" / f"{name}.md").read_text()
    assert f"Measured by `scripts/bench {name}`" in page
    assert (tmp_path / "var" / "bench" / f"{name}.png").stat().st_size > 1000
