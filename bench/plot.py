"""Plots as PNG files: bars to compare contestants, lines to see whether something grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OURS = "#2f6f9f"
THEIRS = "#b9c4cc"


def bars(file: Path, values: Mapping[str, float], label: str, ours: Sequence[str]) -> None:
    """Draw one bar per contestant, with its value; ``ours`` stand out."""
    names = list(values)
    figure, axes = _figure(0.9 + 0.42 * len(names))
    drawn = axes.barh(names, list(values.values()), color=[OURS if name in ours else THEIRS for name in names])
    axes.bar_label(drawn, labels=[_short(value) for value in values.values()], padding=4)
    axes.invert_yaxis()  # the first one on top
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(label)
    figure.savefig(file, dpi=110)


def lines(
    file: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    labels: tuple[str, str],
    *,
    logarithmic: bool = False,
) -> None:
    """Draw one line per series of points, from 0 upwards; ``logarithmic`` is the horizontal axis."""
    figure, axes = _figure(3.6)
    for name, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o" if len(points) < 20 else "", label=name)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_ylim(0, 1.1 * max(y for points in series.values() for _, y in points))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(visible=True, alpha=0.3)
    if len(series) > 1:
        axes.legend()
    figure.savefig(file, dpi=110)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not earlier: it would stand in the memory that a soak measures

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
