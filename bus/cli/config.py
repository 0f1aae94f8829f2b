"""``bus config``: is the configuration right, and what may it say."""

from __future__ import annotations

import click

from bus.cli import exit_codes
from bus.cli.command import BusGroup, pass_settings
from bus.cli.settings import Settings


@click.group("config", cls=BusGroup)
def command() -> None:
    """Check the configuration, print its schema and its reference."""


@command.command()
@click.option("--strict", is_flag=True, help="Treat notes as problems.")
@pass_settings
def check(settings: Settings, strict: bool) -> None:
    """Read the configuration and build everything that it names, without connecting to a server.

    Problems are printed one per line, with file, line and column. Notes say what was left aside.
    """
    from bus.config.checks import routing_notes
    from bus.config.discovery import make_working_directory_importable
    from bus.config.loader import load_with_notes
    from bus.messenger import Messenger

    output = settings.output
    make_working_directory_importable()
    loaded = load_with_notes(settings.config_file())
    with Messenger(loaded.config) as messenger:
        notes = (*loaded.notes, *routing_notes(loaded.config, messenger.types.names()))
    for note in notes:
        output.note(note)
    if strict and notes:
        raise click.exceptions.Exit(exit_codes.CONFIGURATION)
    output.line(f"{loaded.config.source}: ok")


@command.command()
@pass_settings
def schema(settings: Settings) -> None:
    """Print the JSON Schema of messenger.yaml, for editors."""
    from bus.config.json_schema import json_schema

    settings.output.json(json_schema())


@command.command()
@pass_settings
def reference(settings: Settings) -> None:
    """Print every key of messenger.yaml and every option of a transport, as Markdown."""
    from bus.config.reference import reference as page

    settings.output.block(page())
