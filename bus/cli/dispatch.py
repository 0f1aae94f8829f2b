"""``bus dispatch``: messages from the shell.

A message is given as JSON on the command line, or as JSON lines on standard input. With a TYPE each line holds that
message's fields:

    {"order_id": "o-1", "total": "12.50"}

With ``-`` in place of TYPE each line names its own type:

    {"type": "shop.messages.OrderPlaced", "body": {"order_id": "o-1", "total": "12.50"}}
"""

from __future__ import annotations

import os
import stat
import sys
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, cast

import click

from bus.cli import exit_codes
from bus.cli.command import BusCommand, pass_settings
from bus.cli.output import Output
from bus.cli.parameters import duration, must_exist
from bus.cli.progress import progress
from bus.cli.selection import in_memory
from bus.cli.settings import Settings
from bus.cli.terminal import somebody_can_answer
from bus.envelope import Envelope
from bus.errors import describe
from bus.json_lines import JsonLines
from bus.stamps import DelayStamp, MessageIdStamp, PartitionKeyStamp, SentStamp, Stamp, TransportNamesStamp

if TYPE_CHECKING:
    from bus.messenger import Messenger

# The mark keeps click from wrapping the lines.
_EXAMPLES = """\b
Examples:
  bus dispatch shop.OrderPlaced '{"order_id": "o-1", "total": "12.50"}'
  bus dispatch shop.OrderPlaced - < orders.jsonl
  bus dispatch - < mixed.jsonl
      where each line is {"type": "shop.OrderPlaced", "body": {"order_id": "o-1", "total": "12.50"}}"""


@click.command("dispatch", cls=BusCommand, epilog=_EXAMPLES)
@click.argument("type_name", metavar="TYPE")
@click.argument("json_text", metavar="[JSON|-]", required=False)
@click.option("--transport", "transports", multiple=True, metavar="NAME", help="Send there, whatever the routing says.")
@click.option("--delay", type=duration, metavar="DURATION", help='Deliver after this time, such as "5s" or "2h".')
@click.option("--key", help="The partition key: messages of one key are handled in order.")
@click.option("--bus", "bus_name", metavar="NAME", help="Dispatch on this bus instead of the default one.")
@pass_settings
def command(
    settings: Settings,
    type_name: str,
    json_text: str | None,
    transports: tuple[str, ...],
    delay: float | None,
    key: str | None,
    bus_name: str | None,
) -> None:
    """Dispatch messages from the shell.

    TYPE is a message's wire name, alias or Python path. JSON holds its fields; "-", or nothing when something is piped
    in, reads them from standard input, one message per line. A bad line is reported with its number and does not stop
    the others; a transport that cannot be reached does. With "-" in place of TYPE each line names its own type.
    """
    if type_name == "-" and json_text not in (None, "-"):
        raise click.UsageError('With "-" in place of TYPE the messages are read from standard input.')
    with settings.messenger() as messenger:
        must_exist("bus", [bus_name] if bus_name else [], messenger.buses)
        must_exist("transport", transports, messenger.config.transports)
        bus = messenger.buses[bus_name] if bus_name else messenger.bus
        lines = JsonLines(bus, messenger.types)
        stamps = _stamps(transports, delay, key)
        if type_name == "-" or json_text == "-" or (json_text is None and not somebody_can_answer()):
            dispatched = _dispatch_lines(settings.output, lines, None if type_name == "-" else type_name, stamps)
            if not dispatched and "-" not in (type_name, json_text):
                # Where nobody typed a "-", as in a cron job, a message was meant and not that there is none.
                raise click.UsageError(
                    "Standard input is empty, so nothing was dispatched; give the fields as JSON: '{}'"
                )
        else:
            message = lines.read(type_name, (json_text or "{}").encode())
            _print_one(settings.output, bus.dispatch(message, stamps), delayed=delay is not None)
        _tell_what_is_lost(settings.output, messenger)


def _stamps(transports: tuple[str, ...], delay: float | None, key: str | None) -> list[Stamp]:
    stamps: list[Stamp] = []
    if transports:
        stamps.append(TransportNamesStamp(transports))
    if delay is not None:
        stamps.append(DelayStamp(round(delay * 1000)))
    if key is not None:
        stamps.append(PartitionKeyStamp(key))
    return stamps


def _print_one(output: Output, envelope: Envelope, *, delayed: bool) -> None:
    identity = envelope.last(MessageIdStamp)
    names = [stamp.transport_name for stamp in envelope.all(SentStamp)]
    where = f"sent to {', '.join(names)}" if names else "handled here"
    output.line(f"{identity.id if identity is not None else ''} {where}".strip())
    if delayed and not names:
        output.note("It has no transport, so it was handled at once, without the delay.")


def _tell_what_is_lost(output: Output, messenger: Messenger) -> None:
    for name in in_memory(messenger.config):
        counts = messenger.transport(name).counts()
        if counts is not None and counts.ready + (counts.delayed or 0):
            output.note(f'What was sent to "{name}" is gone now: an in-memory:// transport ends with its process.')


def _dispatch_lines(output: Output, lines: JsonLines, type_name: str | None, stamps: list[Stamp]) -> int:
    """Dispatch the messages on standard input and return how many that are."""
    dispatched = handled_here = refused = 0
    outage: BaseException | None = None
    stream = cast("BufferedReader", sys.stdin.buffer if sys.stdin is not None else BytesIO())
    with progress(output, "Dispatching", _size_of(stream)) as advance:
        for batch in lines.dispatch(stream, type_name, stamps):
            dispatched += len(batch.envelopes)
            handled_here += batch.handled_here
            refused += len(batch.refused)
            for line in batch.refused:
                output.note(f"line {line.number}: {line.reason}")
            outage = batch.outage
            advance(batch.size)
    output.line(f"{dispatched:,} dispatched, {refused:,} refused")
    if handled_here and any(isinstance(stamp, DelayStamp) for stamp in stamps):
        output.note(f"{handled_here:,} have no transport, so they were handled at once, without the delay.")
    if outage is not None:
        output.note(f"Stopped: {describe(outage)}")
        raise click.exceptions.Exit(exit_codes.UNREACHABLE)
    if refused:
        raise click.exceptions.Exit(exit_codes.FAILED)
    return dispatched


def _size_of(stream: BufferedReader) -> int | None:
    """Return how many bytes a redirected file has; a pipe does not tell."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
