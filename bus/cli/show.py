"""``bus show``: a look at waiting messages."""

from __future__ import annotations

from itertools import islice

import click

from bus.cli import exit_codes
from bus.cli.command import BusCommand, pass_settings
from bus.cli.message_details import as_json, print_details
from bus.cli.parameters import FORMAT, must_exist
from bus.cli.settings import Settings
from bus.waiting import find, waiting


@click.command("show", cls=BusCommand)
@click.argument("transport")
@click.argument("message_id", metavar="[ID]", required=False)
@click.option("--max", "limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@click.option("--format", "form", type=FORMAT, default="txt", show_default=True, help="A table, or JSON.")
@pass_settings
def command(settings: Settings, transport: str, message_id: str | None, limit: int, form: str) -> None:
    """Look at waiting messages without consuming them.

    Lists the messages in TRANSPORT, or shows the one with this ID; -vv shows its headers and traces.
    """
    output = settings.output
    with settings.messenger() as messenger:
        must_exist("transport", [transport], messenger.transports)
        chosen = messenger.transport(transport)
        found = find(chosen, message_id) if message_id is not None else list(islice(waiting(chosen), limit + 1))
    messages = found if message_id is not None else found[:limit]
    if form == "json":
        output.json([as_json(each) for each in messages])
    elif message_id is not None:
        for each in messages:
            print_details(settings, each)
    elif messages:
        rows = [(each.id, each.type_name, each.state, len(each.body)) for each in messages]
        output.table(("id", "class", "state", "bytes"), rows, numeric=("bytes",))
    if not messages:
        output.note(f'There is no message "{message_id}".' if message_id is not None else "No messages.")
    if len(found) > len(messages):
        output.note(f"There are more than {limit:,}; --max shows more.")
    if message_id is not None and not messages:
        raise click.exceptions.Exit(exit_codes.FAILED)
