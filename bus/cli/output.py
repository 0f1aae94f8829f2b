"""How the commands print: tables, details and JSON on stdout, notes on stderr.

Rich draws where a person looks on; in a pipe the same data is plain text in aligned columns. What comes from a message
is made printable first: a terminal shows its control characters and never obeys them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import IO, Any

import click

EMPTY = "-"


def printable(text: str) -> str:
    r"""Return the text on one line, with every character that is not printable escaped (``\x1b``, ``\u202e``)."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def printable_lines(text: str) -> str:
    """Return the text with its line ends kept and everything else made printable."""
    return "\n".join(printable(line) for line in text.expandtabs(4).splitlines())


class Output:
    """Prints for a person or for a pipe. ``ansi`` decides; None asks whether the stream is a terminal."""

    def __init__(self, ansi: bool | None = None) -> None:
        self.ansi = ansi

    def is_terminal(self, stream: IO[str] | None = None) -> bool:
        """Tell whether to draw for a person on this stream; stdout unless said otherwise."""
        if self.ansi is not None:
            return self.ansi
        stream = stream or sys.stdout
        return stream is not None and stream.isatty()

    def line(self, text: str = "") -> None:
        """Print one line of data."""
        click.echo(printable(text), color=self.ansi)

    def heading(self, text: str) -> None:
        """Print what the following lines are about."""
        text = printable(text)
        click.echo(click.style(text, bold=True) if self.is_terminal() else text, color=self.ansi)

    def block(self, text: str) -> None:
        """Print text of several lines, such as a trace."""
        click.echo(printable_lines(text), color=self.ansi)

    def note(self, text: str) -> None:
        """Tell a person something that is no data, on stderr.

        A progress bar that is drawn there makes room for it, because the bar stands in for ``sys.stderr``; click.echo
        would write to the real one.
        """
        sys.stderr.write(f"{printable_lines(text)}\n")
        sys.stderr.flush()

    def json(self, value: object) -> None:
        """Print a value as JSON that is readable and harmless on a terminal."""
        text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
        click.echo("\n".join(_printable_json(line) for line in text.split("\n")))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Collection[str] = ()) -> None:
        """Print rows under their columns. None prints as a dash; ``numeric`` columns are aligned to the right."""
        # A person reads 12,345; a program that reads a pipe wants 12345.
        drawn = self.is_terminal()
        cells = [[_cell(value, grouped=drawn) for value in row] for row in rows]
        if drawn:
            self._drawn(columns, cells, numeric)
        else:
            self._plain(columns, cells, numeric)

    def details(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Print what is known about one thing, a line each."""
        known = [(name, _cell(value)) for name, value in pairs if value is not None]
        width = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            label = f"{name:<{width}}"
            click.echo(f"{click.style(label, bold=True) if self.is_terminal() else label}  {value}", color=self.ansi)

    def _plain(self, columns: Sequence[str], rows: list[list[str]], numeric: Collection[str]) -> None:
        lines = [list(columns), *rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
        for line in lines:
            padded = [
                f"{cell:>{width}}" if column in numeric else f"{cell:<{width}}"
                for cell, width, column in zip(line, widths, columns, strict=True)
            ]
            click.echo("  ".join(padded).rstrip())

    def _drawn(self, columns: Sequence[str], rows: list[list[str]], numeric: Collection[str]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for at, column in enumerate(columns):
            # The last column may be long, such as an error; what stands before it is copied, so it stays in one piece.
            table.add_column(
                column,
                justify="right" if column in numeric else "left",
                no_wrap=at < len(columns) - 1,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=sys.stdout, force_terminal=self.ansi).print(table)


def _cell(value: Any, *, grouped: bool = False) -> str:
    if value is None:
        return EMPTY
    return printable(f"{value:,}" if grouped and type(value) is int else str(value))


def _printable_json(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)
