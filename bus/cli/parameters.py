"""What the command line may say for a duration, a size, a window, and for the name of something configured."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import click

from bus.errors import ConfigurationError, did_you_mean, quoted

FORMAT = click.Choice(["txt", "json"])


def duration(text: str) -> float:
    """Return the seconds of a duration with its unit."""
    from bus.durations import parse_duration

    try:
        return parse_duration(text) / 1000
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def seconds(text: str) -> float:
    """Return the seconds, more than 0, of a duration; a number without a unit is in seconds, as in Symfony."""
    bare = re.fullmatch(r"(?a)\d{1,9}(\.\d{1,6})?", text.strip())
    value = float(text) if bare else duration(text)
    if not value:
        raise click.BadParameter("it must be more than 0")
    return value


def size(text: str) -> int:
    """Return the bytes of a size such as ``128M``."""
    from bus.limits import parse_size

    try:
        return parse_size(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def fetch_size(text: str) -> int | None:
    """Return how many messages a receiver may hold; None for ``auto``."""
    if text.strip() == "auto":
        return None
    if not re.fullmatch(r"(?a)[1-9]\d{0,6}", text.strip()):
        raise click.BadParameter('expected "auto" or a number from 1 up')
    return int(text)


def must_exist(kind: str, names: Sequence[str], valid: Collection[str]) -> None:
    """Refuse names that do not exist, as a mistake on the command line.

    Raises:
        click.UsageError: with the names that are valid.
    """
    for name in names:
        if name not in valid:
            raise click.UsageError(
                f'There is no {kind} "{name}"; valid ones are {quoted(valid)}{did_you_mean(name, valid)}'
            )
