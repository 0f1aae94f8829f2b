"""The command ``bus``: its commands, loaded when they are asked for, and the one place where errors become text."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import click

from bus.cli import exit_codes
from bus.cli.command import BusGroup
from bus.cli.output import printable_lines
from bus.cli.settings import Settings
from bus.errors import BusError, ConfigurationError, TransportError, WorkerProcessesError, describe, did_you_mean

# What each command does stands here as well, so that the help of the whole loads none of them.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "consume": ("bus.cli.consume", "Handle messages from transports."),
    "dispatch": ("bus.cli.dispatch", "Dispatch messages from the shell."),
    "stats": ("bus.cli.stats", "Count the messages in the transports."),
    "setup-transports": ("bus.cli.setup_transports", "Create what the transports need on their servers."),
    "failed": ("bus.cli.failed", "Show, retry and remove failed messages."),
    "stop-workers": ("bus.cli.stop_workers", "Ask every running worker to stop."),
    "show": ("bus.cli.show", "Look at waiting messages without consuming them."),
    "debug": ("bus.cli.debug", "Show messages, handlers and both stacks."),
    "config": ("bus.cli.config", "Check the configuration, print its schema and its reference."),
}


class RootGroup(BusGroup):
    """The command ``bus``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a command line; a wrong name is answered with the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f'No such command "{args[0]}"{did_you_mean(args[0], COMMANDS)}', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; whatever it raises becomes a text and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - a person gets a sentence, and -vv the trace
            if ctx.ensure_object(Settings).verbosity > 1:
                click.echo(printable_lines(traceback.format_exc()), err=True)
            text, exit_code = failure_of(error)
            click.echo(printable_lines(text), err=True)
            ctx.exit(exit_code)


def failure_of(error: Exception) -> tuple[str, int]:
    """Return what a person is told of an error, and the exit code that a script is told."""
    if isinstance(error, ConfigurationError):
        return str(error), exit_codes.CONFIGURATION
    if isinstance(error, WorkerProcessesError):
        return str(error), error.exit_code
    if isinstance(error, TransportError):
        return str(error), exit_codes.UNREACHABLE
    if isinstance(error, BusError):
        return str(error), exit_codes.FAILED
    return f"Unexpected {describe(error)}\nRun it again with -vv to see where.", exit_codes.FAILED


def _print_version(context: click.Context, option: click.Parameter, value: bool) -> None:
    if not value:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"bus {version('messenger-bus')}")
    except PackageNotFoundError:
        click.echo("bus, from a checkout that is not installed")
    context.exit()


@click.group(
    cls=RootGroup,
    name="bus",
    context_settings={"auto_envvar_prefix": "BUS", "help_option_names": ["-h", "--help"]},
    epilog=exit_codes.listing(),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_print_version,
    help="Show the version and leave.",
)
def bus() -> None:
    """Dispatch messages and handle them, as messenger.yaml says.

    Every option can be given as an environment variable, which its help names.
    """


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is shown escaped instead of ending the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    bus(prog_name="bus")
