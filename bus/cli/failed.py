"""``bus failed``: show, retry and remove what was given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import click

from bus.cli import exit_codes
from bus.cli.command import BusGroup, pass_settings
from bus.cli.message_details import as_json, print_details, time_text
from bus.cli.output import Output
from bus.cli.parameters import FORMAT, must_exist
from bus.cli.progress import progress
from bus.cli.settings import Settings
from bus.cli.terminal import somebody_can_answer
from bus.errors import ConfigurationError
from bus.failures import FailedMessages, Outcome, Selected
from bus.waiting import WaitingMessage

_transport = click.option("--transport", metavar="NAME", help="Only this failure transport; without it all of them.")
_class_filter = click.option("--class-filter", metavar="TYPE", help="Only messages of this class.")
_all = click.option("--all", "every", is_flag=True, help="All failed messages.")
_force = click.option("--force", is_flag=True, help="Do not ask.")


@click.group("failed", cls=BusGroup)
def command() -> None:
    """Show, retry and remove failed messages."""


@command.command()
@click.argument("message_id", metavar="[ID]", required=False)
@_transport
@click.option("--max", "limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@click.option("--stats", is_flag=True, help="Count them by class.")
@_class_filter
@click.option("--format", "form", type=FORMAT, default="txt", show_default=True, help="A table, or JSON.")
@pass_settings
def show(
    settings: Settings,
    message_id: str | None,
    transport: str | None,
    limit: int,
    stats: bool,
    class_filter: str | None,
    form: str,
) -> None:
    """List failed messages, or show the one with this ID.

    -vv shows the traces of its errors.
    """
    with _failed(settings, transport) as failed:
        if stats:
            _print_stats(settings.output, failed.count_by_class(class_filter), form)
        elif message_id is not None:
            _print_found(settings, list(failed.list([message_id])), message_id, form)
        else:
            _print_list(settings.output, failed, class_filter, limit, form)


@command.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_transport
@_all
@_class_filter
@_force
@click.option("--here", is_flag=True, help="Handle them in this process instead of sending them back.")
@pass_settings
def retry(
    settings: Settings,
    ids: tuple[str, ...],
    transport: str | None,
    every: bool,
    class_filter: str | None,
    force: bool,
    here: bool,
) -> None:
    """Send failed messages back to where they failed.

    A message leaves the failure transport when the broker has confirmed that it is back in its queue. It starts anew,
    with all its retries; handlers that succeeded do not run again.
    """
    with _failed(settings, transport) as failed:
        selection = _select(failed, ids, every=every, class_filter=class_filter)
        if _confirmed(selection, "Handle" if here else "Retry", force=force):
            run = failed.handle if here else failed.retry
            _carry_out(settings, run, selection, ids, None if here else "Retrying")


@command.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_transport
@_all
@_class_filter
@_force
@click.option("--show-messages", is_flag=True, help="Show each message before asking.")
@pass_settings
def remove(
    settings: Settings,
    ids: tuple[str, ...],
    transport: str | None,
    every: bool,
    class_filter: str | None,
    force: bool,
    show_messages: bool,
) -> None:
    """Remove failed messages for good."""
    with _failed(settings, transport) as failed:
        selection = _select(failed, ids, every=every, class_filter=class_filter)
        if show_messages:
            for message in failed.list(ids, class_filter):
                print_details(settings, message)
        if not ids and not force and not somebody_can_answer():
            raise click.UsageError("Nobody can be asked here; --force removes without asking.")
        if _confirmed(selection, "Remove", force=force):
            _carry_out(settings, failed.remove, selection, ids, "Removing")


@contextmanager
def _failed(settings: Settings, transport: str | None) -> Iterator[FailedMessages]:
    with settings.messenger() as messenger:
        names = sorted({name for name in messenger.failure_transports.values() if name is not None})
        if not names:
            raise ConfigurationError('There is no failure transport; name one with "failure_transport".')
        must_exist("failure transport", [transport] if transport else [], names)
        yield messenger.failed([transport] if transport else names)


def _print_stats(output: Output, counts: Mapping[str, int], form: str) -> None:
    if form == "json":
        output.json(counts)
    else:
        output.table(("class", "failed"), list(counts.items()), numeric=("failed",))


def _print_list(output: Output, failed: FailedMessages, class_filter: str | None, limit: int, form: str) -> None:
    messages: list[WaitingMessage] = []
    more = False
    for message in failed.list(class_filter=class_filter):
        more = len(messages) == limit
        if more:
            break
        messages.append(message)
    if form == "json":
        output.json([as_json(message) for message in messages])
    elif messages:
        rows = [(each.id, each.type_name, time_text(each.redelivered_at), _error(each)) for each in messages]
        output.table(("id", "class", "failed at", "error"), rows)
    else:
        output.note("No failed messages.")
    if more:
        output.note(f"There are more than {limit:,}; --max shows more.")


def _print_found(settings: Settings, messages: Sequence[WaitingMessage], message_id: str, form: str) -> None:
    if not messages:
        settings.output.note(f'There is no failed message "{message_id}".')
        raise click.exceptions.Exit(exit_codes.FAILED)
    if form == "json":
        settings.output.json([as_json(message) for message in messages])
        return
    for message in messages:
        print_details(settings, message)


def _error(message: WaitingMessage) -> str | None:
    if message.errors:
        last = message.errors[-1]
        return f"{last.exception_class}: {last.exception_message}"
    return message.undecodable_reason


def _select(failed: FailedMessages, ids: Sequence[str], *, every: bool, class_filter: str | None) -> Sequence[Selected]:
    if ids and every:
        raise click.UsageError("Give ids, or --all.")
    if not ids and not every and class_filter is None:
        raise click.UsageError("Give the ids of messages, --class-filter or --all.")
    return failed.select(ids, class_filter)


def _confirmed(selection: Sequence[Selected], verb: str, *, force: bool) -> bool:
    if force or not selection or not somebody_can_answer():
        return True
    many = f"{len(selection):,} messages" if len(selection) > 1 else f"{selection[0].type_name} {selection[0].id}"
    return click.confirm(f"{verb} {many}?", err=True)


def _carry_out(
    settings: Settings,
    run: Callable[[Sequence[Selected]], Iterator[Outcome]],
    selection: Sequence[Selected],
    ids: Sequence[str],
    description: str | None,
) -> None:
    """Run a step on every chosen message and tell the outcome. Without a description there is no progress bar."""
    output = settings.output
    counts: dict[str, int] = {}
    bar = progress(output, description, len(selection)) if description else nullcontext(lambda step: None)
    with bar as advance:
        for outcome in run(selection):
            counts[outcome.result] = counts.get(outcome.result, 0) + 1
            advance(1)
            if outcome.result in ("kept", "gone"):
                output.note(f"{outcome.selected.id} {outcome.result}: {outcome.detail}")
            elif settings.verbosity:
                output.note(f"{outcome.selected.id} {outcome.result} {outcome.detail}".rstrip())
    found = {selected.id for selected in selection}
    missing = [each for each in ids if each not in found]
    for each in missing:
        output.note(f'There is no failed message "{each}".')
    told = [f"{count:,} {'sent back' if result == 'sent' else result}" for result, count in counts.items()]
    output.line(", ".join(told) or "0 messages")
    if missing or counts.get("kept"):
        raise click.exceptions.Exit(exit_codes.FAILED)
