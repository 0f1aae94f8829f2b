"""Logs of the command: one line each on stderr, with time, level and message."""

from __future__ import annotations

import logging
import sys

import click

from bus.cli.output import printable, printable_lines
from bus.cli.settings import Settings

_COLOURS = {"DEBUG": "bright_black", "INFO": "green", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}


def configure(settings: Settings) -> None:
    """Send logs to stderr: the bus's lifecycle and failures; ``-v`` the application's progress; ``-vv`` everything.

    A handler that the application has given to the root logger already stays alone.
    """
    root = logging.getLogger()
    root.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(settings.verbosity, 2)])
    logging.getLogger("bus").setLevel(logging.DEBUG if settings.verbosity > 1 else logging.INFO)
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter(coloured=settings.output.is_terminal(sys.stderr)))
        root.addHandler(handler)


class _Formatter(logging.Formatter):
    """Writes ``2026-01-31 12:00:00,123 INFO text``. Texts of messages cannot forge lines or move the cursor."""

    def __init__(self, *, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:<7}"
        if self._coloured:
            level = click.style(level, fg=_COLOURS.get(record.levelname))
        line = f"{self.formatTime(record)} {level} {printable(record.getMessage())}"
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        return f"{line}\n{printable_lines(trace)}" if trace else line
