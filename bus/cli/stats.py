"""``bus stats``: how many messages the transports hold."""

from __future__ import annotations

from dataclasses import asdict

import click

from bus.cli.command import BusCommand, pass_settings
from bus.cli.parameters import FORMAT, must_exist
from bus.cli.settings import Settings
from bus.errors import quoted


@click.command("stats", cls=BusCommand)
@click.argument("names", nargs=-1)
@click.option("--format", "form", type=FORMAT, default="txt", show_default=True, help="A table, or JSON.")
@pass_settings
def command(settings: Settings, names: tuple[str, ...], form: str) -> None:
    """Count the messages in the transports.

    NAMES are transports; without them all are counted. Ready: may be handled now. Delayed: waits for its time. In
    flight: a worker holds it. Parked: kept, and not delivered by itself.
    """
    output = settings.output
    with settings.messenger() as messenger:
        must_exist("transport", names, messenger.transports)
        stats = messenger.stats(names)
    counted = {each.name: each.counts for each in stats if each.counts is not None}
    uncounted = [each.name for each in stats if each.counts is None]
    if form == "json":
        output.json(
            {
                "transports": {name: asdict(counts) for name, counts in counted.items()},
                "uncountable_transports": uncounted,
            }
        )
        return
    columns = ("transport", "ready", "delayed", "in flight", "parked")
    rows = [(name, each.ready, each.delayed, each.in_flight, each.parked) for name, each in counted.items()]
    output.table(columns, rows, numeric=columns[1:])
    if uncounted:
        output.note(f"Transports that cannot count their messages: {quoted(uncounted)}.")
