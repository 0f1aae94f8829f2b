"""What every command shares: the global options, their environment variables, and the logs."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from bus.cli import logs
from bus.cli.settings import Settings


def global_options() -> list[click.Option]:
    """Return the options that are understood before and after the name of a command."""
    return [
        click.Option(
            ["--config"],
            metavar="PATH",
            envvar="BUS_CONFIG",
            expose_value=False,
            callback=_remember,
            help="The configuration file; without it messenger.yaml is looked for here and in config/.",
        ),
        click.Option(
            ["--ansi/--no-ansi"],
            default=None,
            envvar="BUS_ANSI",
            expose_value=False,
            callback=_remember,
            help="Colours and drawn tables, or plain text; without it the terminal decides.",
        ),
        click.Option(
            ["-v", "--verbose", "verbosity"],
            count=True,
            envvar="BUS_VERBOSE",
            expose_value=False,
            callback=_remember,
            help="Say more; -vv says all, and shows where an error comes from.",
        ),
    ]


def _remember(context: click.Context, option: click.Parameter, value: Any) -> None:
    name = str(option.name)
    source = context.get_parameter_source(name)
    # A variable is seen by the command and by every group above it: only the outermost one reads it, so that it never
    # wins over what was typed.
    if source is ParameterSource.COMMANDLINE or (source is ParameterSource.ENVIRONMENT and context.parent is None):
        setattr(context.ensure_object(Settings), name, value)


class _SharedOptions(click.Command):
    """Adds the global options to a command, and shows each option's environment variable in its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(global_options())
        for parameter in self.params:
            if isinstance(parameter, click.Option):
                parameter.show_envvar = True


class BusCommand(_SharedOptions):
    """A command. Logs go to stderr from its start."""

    def invoke(self, ctx: click.Context) -> Any:
        """Set up the logs and run the command."""
        logs.configure(ctx.ensure_object(Settings))
        return super().invoke(ctx)


class BusGroup(_SharedOptions, click.Group):
    """A command with commands of its own."""

    command_class = BusCommand


pass_settings = click.make_pass_decorator(Settings, ensure=True)
