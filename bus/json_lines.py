"""Messages from JSON text, one per line, dispatched in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from bus.envelope import Envelope
from bus.errors import (
    AccessDeniedError,
    ConnectionLostError,
    DecodingError,
    DispatchManyError,
    SendFailedError,
    SendUnknown,
    describe,
)
from bus.headers import CONTENT_TYPE, JSON, TYPE
from bus.message_bus import MessageBus
from bus.messages import MessageTypes
from bus.serializer import EncodedEnvelope, JsonSerializer
from bus.stamps import SentStamp, Stamp

_BATCH = 100
_READ_SIZE = 64 * 1024
# After one of these the next batch would only wait for its deadline as well.
_OUTAGES = (ConnectionLostError, AccessDeniedError, SendUnknown)


class ByteStream(Protocol):
    """A stream that hands out what it has: ``sys.stdin.buffer``, or a file opened in binary mode."""

    def read1(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, waiting only for the first; empty at the end."""


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that was not dispatched. ``number`` counts from 1."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class DispatchedLines:
    """What became of one batch of lines. ``size`` is their length in bytes.

    ``outage`` is the error of a transport that cannot be reached; the lines behind this batch were not read then.
    """

    envelopes: Sequence[Envelope]
    refused: Sequence[RefusedLine]
    size: int
    outage: BaseException | None = None

    @property
    def handled_here(self) -> int:
        """How many messages have no transport and were handled on the spot."""
        return sum(envelope.last(SentStamp) is None for envelope in self.envelopes)


class _TypedLine(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    body: msgspec.Raw


class JsonLines:
    """Makes messages of JSON text and dispatches them on a bus."""

    def __init__(self, bus: MessageBus, types: MessageTypes) -> None:
        self._bus = bus
        self._serializer = JsonSerializer(types)

    def read(self, type_name: str | None, text: bytes) -> object:
        """Return the message that the text holds.

        ``type_name`` is a wire name, an alias or a Python path; the text then is the message's fields. Without it the
        text names the type itself: ``{"type": "shop.OrderPlaced", "body": {...}}``.

        Raises:
            DecodingError: the text is no such message.
        """
        if type_name is None:
            type_name, text = _split(text)
        envelope = self._serializer.decode(EncodedEnvelope(text, {TYPE: type_name, CONTENT_TYPE: JSON}))
        return envelope.message

    def dispatch(
        self, stream: ByteStream, type_name: str | None = None, stamps: Sequence[Stamp] = ()
    ) -> Iterator[DispatchedLines]:
        """Dispatch every line as it arrives, in batches of up to 100, and yield what became of each batch.

        A bad line does not stop the others; a transport that cannot be reached does. Empty lines are skipped.
        """
        for batch in _batches(stream):
            result = self._dispatch_batch(batch, type_name, stamps)
            yield result
            if result.outage is not None:
                return

    def _dispatch_batch(
        self, batch: Sequence[tuple[int, bytes]], type_name: str | None, stamps: Sequence[Stamp]
    ) -> DispatchedLines:
        messages: list[object] = []
        numbers: list[int] = []
        refused: list[RefusedLine] = []
        for number, line in batch:
            if not line.strip():
                continue
            try:
                messages.append(self.read(type_name, line))
                numbers.append(number)
            except DecodingError as error:
                refused.append(RefusedLine(number, str(error)))
        outage: BaseException | None = None
        try:
            envelopes: Sequence[Envelope] = self._bus.dispatch_many(messages, stamps)
        except DispatchManyError as error:
            envelopes = [each for each in error.envelopes if each is not None]
            refused += [RefusedLine(numbers[at], describe(each)) for at, each in error.errors.items()]
            outage = next(filter(_is_outage, error.errors.values()), None)
        size = sum(len(line) for _, line in batch)
        return DispatchedLines(envelopes, sorted(refused, key=lambda each: each.number), size, outage)


def _split(text: bytes) -> tuple[str, bytes]:
    try:
        line = msgspec.json.decode(text, type=_TypedLine)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodingError(f'Expected {{"type": "<name>", "body": {{...}}}}: {error}') from error
    return line.type, bytes(line.body)


def _batches(stream: ByteStream) -> Iterator[Sequence[tuple[int, bytes]]]:
    """Yield numbered lines as soon as they are there, so that no line waits for a slow pipe to bring the next."""
    number = 1
    for lines in _lines(stream):
        numbered = list(enumerate(lines, start=number))
        number += len(lines)
        for at in range(0, len(numbered), _BATCH):
            yield numbered[at : at + _BATCH]


def _lines(stream: ByteStream) -> Iterator[list[bytes]]:
    """Yield the whole lines of each read."""
    parts: list[bytes] = []
    while chunk := stream.read1(_READ_SIZE):
        whole, end, rest = chunk.rpartition(b"\n")
        if end:
            yield b"".join([*parts, whole]).split(b"\n")
            parts.clear()
        parts.append(rest)
    if last := b"".join(parts):
        yield [last]


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, SendFailedError):
        return any(_is_outage(each) for each in error.errors.values())
    # A refusal may be that of a database that could not be reached: then nothing was stored, and why stands behind it.
    return isinstance(error, _OUTAGES) or isinstance(error.__cause__, _OUTAGES)
