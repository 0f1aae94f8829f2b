"""Which receivers a command line chooses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import click

from bus.cli.parameters import must_exist
from bus.cli.terminal import somebody_can_answer
from bus.config.schema import MessengerConfig
from bus.errors import ConfigurationError, quoted


@dataclass(frozen=True, slots=True)
class Selection:
    """Names, or all that are there. ``ask``: a person at the terminal may be asked."""

    names: tuple[str, ...]
    every: bool
    excluded: tuple[str, ...]
    ask: bool = True

    def of(self, transports: Collection[str], failure_transports: Collection[str | None]) -> list[str]:
        """Return the chosen ones of these transports.

        Raises:
            click.UsageError: a name does not exist, or it is not clear which ones are meant.
            ConfigurationError: there is none.
        """
        must_exist("receiver", [*self.names, *self.excluded], transports)
        if self.excluded and not self.every:
            raise click.UsageError("--exclude-receivers goes with --all.")
        if self.names and self.every:
            raise click.UsageError("Give names of receivers, or --all.")
        if self.names:
            return list(dict.fromkeys(self.names))
        candidates = [name for name in transports if name not in {*failure_transports, *self.excluded}]
        if not candidates:
            raise ConfigurationError("There is no transport to consume from, failure transports excepted.")
        if self.every or len(candidates) == 1:
            return candidates
        if not self.ask or not somebody_can_answer():
            raise click.UsageError(f"Name the receivers, or give --all; there are {quoted(transports)}.")
        return [click.prompt("Receiver", type=click.Choice(list(transports)), err=True)]

    def as_arguments(self) -> list[str]:
        """Return what was typed, for the command line of another process: all may be others by then."""
        flags = ["--all"] if self.every else []
        return [*self.names, *flags, *(f"--exclude-receivers={name}" for name in self.excluded)]


def in_memory(config: MessengerConfig) -> list[str]:
    """Return the transports that only their own process sees."""
    return [name for name, each in config.transports.items() if each.dsn.startswith("in-memory:")]
