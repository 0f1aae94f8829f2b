"""``bus setup-transports``: queues, tables and streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from bus.cli import exit_codes
from bus.cli.command import BusCommand, pass_settings
from bus.cli.output import Output
from bus.cli.parameters import must_exist
from bus.cli.settings import Settings


@click.command("setup-transports", cls=BusCommand)
@click.argument("names", nargs=-1)
@click.option("--check", is_flag=True, help="Only say what is missing, and exit with 1 when something is.")
@click.option("--sql", is_flag=True, help="Only print the SQL statements that would be executed.")
@pass_settings
def command(settings: Settings, names: tuple[str, ...], check: bool, sql: bool) -> None:
    """Create what the transports need on their servers.

    That is tables, queues or streams; what is there already stays as it is. NAMES are transports; without them all are
    set up, and the tables of the stores and outboxes too.
    """
    if check and sql:
        raise click.UsageError('"--check" and "--sql" cannot stand together')
    output = settings.output
    with settings.messenger() as messenger:
        must_exist("transport", names, messenger.transports)
        if sql:
            _print_statements(output, messenger.ddl(names))
            return
        if not check:
            for name, done in messenger.set_up(names).items():
                output.line(f"{name}: {'set up' if done else 'nothing to set up'}")
            return
        missing = messenger.check(names)
    for name, problems in missing.items():
        if problems is None:
            output.line(f"{name}: nothing to set up")
        for problem in problems or ():
            output.line(f"{name}: {problem}")
        if problems is not None and not problems:
            output.line(f"{name}: complete")
    if any(missing.values()):
        raise click.exceptions.Exit(exit_codes.FAILED)


def _print_statements(output: Output, found: Mapping[str, Sequence[str] | None]) -> None:
    for name, statements in found.items():
        for statement in statements or ():
            for line in (f"-- {name}", *f"{statement};".expandtabs(2).splitlines()):
                output.line(line.rstrip())
