"""Logs of the command: one line each on stderr, with time, level and message."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TextIO

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
        handler = _StderrHandler()
        coloured = settings.output.is_terminal(sys.stderr)
        handler.setFormatter(_Formatter(coloured=coloured, traces=settings.verbosity > 1))
        root.addHandler(handler)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at the moment: a progress bar puts itself there and makes room for each line."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Formatter(logging.Formatter):
    """Writes ``2026-01-31 12:00:00,123 INFO text``. Texts of messages cannot forge lines or move the cursor.

    Without ``traces`` an error that the bus logs is followed by the place where it was raised: a failed message keeps
    its trace, and a thousand of them would bury everything else. The application's own logs keep theirs.
    """

    def __init__(self, *, coloured: bool, traces: bool) -> None:
        super().__init__()
        self._coloured = coloured
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:<7}"
        if self._coloured:
            level = click.style(level, fg=_COLOURS.get(record.levelname))
        line = f"{self.formatTime(record)} {level} {printable(record.getMessage())}"
        if not record.exc_info or record.exc_info[1] is None:
            return line
        if self._traces or not record.name.startswith("bus."):
            return f"{line}\n{printable_lines(self.formatException(record.exc_info))}"
        return line + _place_of(record.exc_info[1])


def _place_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return "".join(f" ({printable(frame.filename)}:{frame.lineno} in {frame.name})" for frame in frames)
