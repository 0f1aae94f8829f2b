"""``bus consume``: a worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from bus.children import consume_command
from bus.cli import exit_codes
from bus.cli.command import BusCommand, pass_settings
from bus.cli.main import failure_of
from bus.cli.parameters import duration, fetch_size, must_exist, seconds, size
from bus.cli.selection import Selection, in_memory
from bus.cli.settings import Settings, warn_of_a_shadow
from bus.config.loader import load
from bus.errors import describe
from bus.events import MessageSettled
from bus.life_line import LifeLine
from bus.limits import Limits
from bus.log_context import log_context, message_id_of
from bus.supervisor import supervise
from bus.transports.dsn import Dsn
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
@click.option(
    "--processes",
    type=_AT_LEAST_1,
    metavar="NUMBER",
    help="Consume in so many processes, and replace those that die; without it, in this process.",
)
@click.option("--reload", is_flag=True, help="Replace the processes when code below this folder changes.")
@click.option(
    "--concurrency", type=_AT_LEAST_1, default=1, show_default=True, help="Messages that a process handles at once."
)
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
@click.option("--life-line", "life_line_fd", type=int, hidden=True, allow_from_autoenv=False)
@click.option("--stop-request", hidden=True, allow_from_autoenv=False)
@pass_settings
def command(
    settings: Settings,
    /,
    receivers: tuple[str, ...],
    every: bool,
    excluded: tuple[str, ...],
    bus_name: str | None,
    processes: int | None,
    reload: bool,
    life_line_fd: int | None,
    stop_request: str | None,
    **options: Any,
) -> None:
    """Handle messages from transports.

    RECEIVERS are transports; what comes from the first one goes first. Without a name the only transport is taken.
    SIGTERM and Ctrl-C finish what is being handled and give back the rest. With --processes or --reload SIGHUP replaces
    the processes one by one; the time limit is that of all, the other limits are those of each.
    """
    selection = Selection(receivers, every, excluded, ask=life_line_fd is None)
    if life_line_fd is None and (processes is not None or reload):
        limits = _limits(options)
        supervise(
            consume_command(
                _receivers_of_processes(settings, selection),
                _worker_options(options),
                bus=bus_name,
                limits=limits,
                global_options=settings.as_arguments(),
            ),
            processes or 1,
            shutdown_timeout=options["shutdown_timeout"],
            time_limit=limits.seconds,
            reload=reload,
        )
        return
    life_line = LifeLine(life_line_fd, stop_request) if life_line_fd is not None else None
    with _errors_told_to(life_line, settings), settings.messenger() as messenger:
        must_exist("bus", [bus_name] if bus_name else [], messenger.buses)
        if settings.verbosity:
            messenger.events.on(MessageSettled, _log_handled)
        chosen = selection.of(messenger.transports, set(messenger.failure_transports.values()))
        for name in set(in_memory(messenger.config)).intersection(chosen):
            logger.warning('Transport "%s" is in-memory://: nothing comes there from other processes', name)
        messenger.consume(
            chosen,
            _worker_options(options),
            bus=bus_name,
            limits=_limits(options),
            life_line=life_line,
        )


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


def _receivers_of_processes(settings: Settings, selection: Selection) -> list[str]:
    """Return the receivers as arguments. Nothing of the application is imported: that is what may crash."""
    if settings.app is not None:
        return selection.as_arguments()
    config = load(settings.config_file())
    warn_of_a_shadow(settings.output)
    transports = [name for name, each in config.transports.items() if Dsn.parse(each.dsn).scheme != "sync"]
    chosen = selection.of(transports, {config.failure_transport_of(name) for name in transports})
    return selection.as_arguments() if selection.every else chosen


@contextmanager
def _errors_told_to(life_line: LifeLine | None, settings: Settings) -> Iterator[None]:
    """Have the supervisor say why this process ends, once for all of them; -vv says it here too, with the trace."""
    try:
        yield
    except BaseException as error:
        if life_line is None or isinstance(error, click.exceptions.Exit):
            raise
        text, exit_code = _failure_of(error)
        life_line.report_error(exit_code, text)
        if settings.verbosity > 1:
            raise
        raise click.exceptions.Exit(exit_code) from None


def _failure_of(error: BaseException) -> tuple[str, int]:
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, Exception):
        return failure_of(error)
    return describe(error), exit_codes.FAILED


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
