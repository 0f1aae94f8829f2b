"""A progress bar on stderr where a person looks on, and nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bus.cli.output import Output


@contextmanager
def progress(output: Output, description: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """Show how far something is; the value is a function that is told each step. ``total`` None: the end is unknown."""
    if not output.is_terminal(sys.stderr):
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr, force_terminal=output.ansi)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda step: bar.advance(task, step)
