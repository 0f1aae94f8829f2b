"""``bus stop-workers``: every running worker is asked to stop."""

from __future__ import annotations

import click

from bus.cli.command import BusCommand, pass_settings
from bus.cli.settings import Settings
from bus.stop_requests import LOOK_EVERY


@click.command("stop-workers", cls=BusCommand)
@pass_settings
def command(settings: Settings) -> None:
    """Ask every running worker to stop.

    Each worker finishes what it is handling, gives back the rest and ends with exit code 0. Workers that are started
    afterwards are not stopped. The workers that share the store of the configuration are reached, on whatever host;
    where the store is the memory of one process, all workers of this user on this host.
    """
    output = settings.output
    with settings.messenger() as messenger:
        everywhere = messenger.stop_workers()
    if not everywhere:
        output.note(
            "The configured store is shared with nobody, so workers on other hosts are not reached: "
            "the workers of this user on this host are asked."
        )
    output.line(f"The running workers are asked to stop; each one looks every {LOOK_EVERY:g} s.")
