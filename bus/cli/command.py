"""What every command shares: the global options, their environment variables, and the logs."""

from __future__ import annotations

import os
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
            ["--app"],
            metavar="MODULE:NAME",
            envvar="BUS_APP",
            expose_value=False,
            callback=_remember,
            help="A messenger, or a function that makes one, instead of a configuration file.",
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
    # Made here, at the outermost command, so that all inner ones share it.
    settings = context.ensure_object(Settings)
    name = str(option.name)
    source = context.get_parameter_source(name)
    # A variable is seen by the command and by every group above it: only the outermost one reads it, so that it never
    # wins over what was typed.
    if source is ParameterSource.COMMANDLINE or (source is ParameterSource.ENVIRONMENT and context.parent is None):
        setattr(settings, name, value)


class _SharedOptions(click.Command):
    """Adds the global options to a command, and shows each option's environment variable in its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(global_options())
        for parameter in self.params:
            if isinstance(parameter, click.Option):
                parameter.show_envvar = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Name each option's variable after the option as it is typed: ``BUS_CONSUME_TIME_LIMIT``."""
        for parameter in self.params:
            if isinstance(parameter, click.Option) and parameter.envvar is None and parameter.allow_from_autoenv:
                typed = max(parameter.opts, key=len).lstrip("-").replace("-", "_").upper()
                parameter.envvar = f"{ctx.auto_envvar_prefix}_{typed}"
        return super().parse_args(ctx, args)


class BusCommand(_SharedOptions):
    """A command. Logs go to stderr from its start."""

    def invoke(self, ctx: click.Context) -> Any:
        """Set up the logs and run the command."""
        logs.configure(ctx.ensure_object(Settings))
        if "BUS_FAILPOINTS" in os.environ:
            from bus.testing.failpoints import arm_from_environment

            arm_from_environment()
        return super().invoke(ctx)


class BusGroup(_SharedOptions, click.Group):
    """A command with commands of its own."""

    command_class = BusCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which the commands were defined."""
        return list(self.commands)


pass_settings = click.make_pass_decorator(Settings, ensure=True)
