"""``bus consume``: a worker."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import click

from bus.cli import exit_codes
from bus.cli.command import BusCommand, pass_settings
from bus.cli.parameters import duration, fetch_size, must_exist, seconds, size
from bus.cli.settings import Settings
from bus.errors import ConfigurationError, quoted
from bus.events import MessageSettled
from bus.limits import Limits
from bus.log_context import log_context, message_id_of
from bus.messenger import Messenger
from bus.waiting import type_name_of
from bus.worker_options import WorkerOptions

logger = logging.getLogger(__name__)

_AT_LEAST_1 = click.IntRange(min=1)


@click.command("consume", cls=BusCommand, epilog=exit_codes.listing())
@click.argument("receivers", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Consume from every transport, failure transports excepted.")
@click.option("--exclude-receivers", "excluded", multiple=True, metavar="NAME", help="With --all: not from this one.")
@click.option("--limit", type=_AT_LEAST_1, help="Stop after this many messages.")
@click.option("--failure-limit", type=_AT_LEAST_1, help="Stop after this many failed attempts.")
@click.option("--time-limit", type=seconds, metavar="DURATION", help='Stop after this time: seconds, or such as "1h".')
@click.option("--memory-limit", type=size, metavar="SIZE", help='Stop at this much memory, such as "128M".')
@click.option("--stop-when-empty", is_flag=True, help="Stop when no message is due.")
@click.option(
    "--sleep",
    type=seconds,
    metavar="DURATION",
    default="1",
    show_default=True,
    help="The longest pause between two looks at a transport that cannot wake the worker, in seconds.",
)
@click.option("--bus", "bus_name", metavar="NAME", help="Handle every message on this bus, not on the one it names.")
@click.option("--queues", multiple=True, metavar="NAME", help="Read only this queue of the transports.")
@click.option("--concurrency", type=_AT_LEAST_1, default=1, show_default=True, help="Messages handled at once.")
@click.option(
    "--fetch-size",
    type=fetch_size,
    metavar="NUMBER|auto",
    default="auto",
    show_default=True,
    help='Messages held at once; "auto" is what 100 ms of work need.',
)
@click.option(
    "--shutdown-timeout",
    type=duration,
    metavar="DURATION",
    default="25s",
    show_default=True,
    help="How long running handlers get after SIGTERM or Ctrl-C.",
)
@click.option("--fail-fast", is_flag=True, help="End when a transport cannot be read, instead of trying again.")
@pass_settings
def command(
    settings: Settings,
    /,
    receivers: tuple[str, ...],
    every: bool,
    excluded: tuple[str, ...],
    bus_name: str | None,
    **options: Any,
) -> None:
    """Handle messages from transports.

    RECEIVERS are transports; what comes from the first one goes first. Without a name the only transport is taken.
    SIGTERM and Ctrl-C finish what is being handled and give back the rest.
    """
    with settings.messenger() as messenger:
        chosen = _chosen(messenger, receivers, every=every, excluded=excluded)
        must_exist("bus", [bus_name] if bus_name else [], messenger.buses)
        if settings.verbosity:
            messenger.events.on(MessageSettled, _log_handled)
        messenger.consume(chosen, _worker_options(options), bus=bus_name, limits=_limits(options))


def _worker_options(options: dict[str, Any]) -> WorkerOptions:
    return WorkerOptions(
        concurrency=options["concurrency"],
        fetch_size=options["fetch_size"],
        sleep=options["sleep"],
        queues=options["queues"],
        fail_fast=options["fail_fast"],
        shutdown_timeout=options["shutdown_timeout"],
        stop_when_empty=options["stop_when_empty"],
    )


def _limits(options: dict[str, Any]) -> Limits:
    return Limits(
        messages=options["limit"],
        failures=options["failure_limit"],
        seconds=options["time_limit"],
        memory=options["memory_limit"],
    )


def _chosen(messenger: Messenger, names: tuple[str, ...], *, every: bool, excluded: tuple[str, ...]) -> Sequence[str]:
    must_exist("receiver", [*names, *excluded], messenger.transports)
    if excluded and not every:
        raise click.UsageError("--exclude-receivers goes with --all.")
    if names and every:
        raise click.UsageError("Give names of receivers, or --all.")
    if names:
        return tuple(dict.fromkeys(names))
    failure_transports = set(messenger.failure_transports.values())
    candidates = [name for name in messenger.transports if name not in {*failure_transports, *excluded}]
    if not candidates:
        raise ConfigurationError("There is no transport to consume from, failure transports excepted.")
    if every or len(candidates) == 1:
        return candidates
    if not sys.stdin.isatty():
        raise click.UsageError(f"Name the receivers, or give --all; there are {quoted(messenger.transports)}.")
    return [click.prompt("Receiver", type=click.Choice(list(messenger.transports)), err=True)]


def _log_handled(event: MessageSettled) -> None:
    # What failed is logged where it is settled.
    if event.outcome == "handled":
        logger.info(
            'Message %s of "%s" was handled: %s',
            message_id_of(event.envelope),
            event.transport_name,
            type_name_of(event.envelope),
            extra=log_context(event.envelope, event.transport_name),
        )
