"""``bus debug``: what there is, and why a message goes where it goes."""

from __future__ import annotations

import click

from bus.cli.command import BusCommand, pass_settings
from bus.cli.output import Output
from bus.cli.parameters import must_exist
from bus.cli.settings import Settings
from bus.inspection import BusDescription, describe_buses, explain


@click.command("debug", cls=BusCommand)
@click.argument("bus_name", metavar="[BUS]", required=False)
@click.option("--explain", "type_name", metavar="TYPE", help="Say why a message of this type goes where it goes.")
@pass_settings
def command(settings: Settings, bus_name: str | None, type_name: str | None) -> None:
    """Show messages, handlers and both stacks.

    BUS is the name of a bus; without it all are shown. Stacks are listed from the outside to the inside.
    """
    output = settings.output
    with settings.messenger() as messenger:
        if type_name is not None:
            must_exist("message", [type_name], messenger.types.names())
            for line in explain(messenger, type_name):
                output.line(line)
            return
        must_exist("bus", [bus_name] if bus_name else [], messenger.buses)
        for bus in describe_buses(messenger, bus_name):
            _print_bus(output, bus)


def _print_bus(output: Output, bus: BusDescription) -> None:
    output.heading(f'Bus "{bus.name}"{" (default)" if bus.is_default else ""}')
    output.details(
        [
            ("around a message", " > ".join(bus.middleware)),
            ("around a handler", " > ".join(bus.handler_middleware)),
        ]
    )
    output.line()
    rows = []
    for message in bus.messages:
        sent_to = ", ".join(message.transports) or None
        handlers = [each.name + "".join(f" ({note})" for note in each.notes) for each in message.handlers]
        rows += [(message.name, sent_to, handler) for handler in handlers or ["nobody"]]
    output.table(("message", "sent to", "handled by"), rows)
    output.line()
