"""One stamp in one header: plain text, a number, or a JSON list of objects. Nothing from the wire is trusted."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

from bus.errors import DecodingError, EncodingError
from bus.stamps import BusNameStamp, DelayStamp, ErrorDetailsStamp, HandledStamp, RedeliveryStamp, Stamp
from bus.wire.nesting import nested_deeper_than
from bus.wire.object_codec import codec_for, unreadable, unwritable
from bus.wire.object_shape import Rename

Writer: TypeAlias = Callable[[Any, dict[str, str]], None]
Reader: TypeAlias = Callable[[str], Sequence[Stamp]]

LARGEST: Final = 2**31 - 1
# A due time a hundred years ahead still fits into a datetime and into every database.
LONGEST_DELAY: Final = 100 * 365 * 24 * 3600 * 1000

_NOT_PLAIN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")


def text_codec(cls: type[Stamp], header: str, field: str, shortest: int, longest: int) -> tuple[Writer, Reader]:
    """Return how to write and read a stamp whose one text field is the header's value."""
    value_of = attrgetter(field)

    def is_allowed(value: str) -> bool:
        fits = type(value) is str and shortest <= len(value) <= longest
        return fits and (value.isprintable() or is_plain(value))

    def write(stamp: Stamp, into: dict[str, str]) -> None:
        value = value_of(stamp)
        if not is_allowed(value):
            raise EncodingError(f'The stamp "{cls.__name__}" cannot be written: its "{field}" is no {allowed}.')
        into[header] = value

    def read(value: str) -> Sequence[Stamp]:
        if not is_allowed(value):
            raise DecodingError(f'its header "{header}" is no {allowed}')
        return (cls(value),)  # type: ignore[call-arg]

    allowed = f"text of {shortest} to {longest} characters without control characters"
    return write, read


def number_codec(cls: type[Stamp], header: str, field: str, smallest: int) -> tuple[Writer, Reader]:
    """Return how to write and read a stamp whose one number is the header's value; out of range, it is clamped."""
    value_of = attrgetter(field)

    def write(stamp: Stamp, into: dict[str, str]) -> None:
        into[header] = str(_whole(cls, field, value_of(stamp), smallest, LARGEST))

    def read(value: str) -> Sequence[Stamp]:
        if type(value) is not str or not _INTEGER.fullmatch(value):
            raise DecodingError(f'its header "{header}" is no whole number')
        return (cls(clamped(int(value), smallest, LARGEST)),)  # type: ignore[call-arg]

    return write, read


def list_writer(cls: type[Stamp], header: str, rename: Rename) -> Writer:
    """Return how to write a stamp as one object of the JSON list in its header."""
    fragment_of = _FRAGMENTS.get(cls) or _object_writer(cls, rename)

    def write(stamp: Stamp, into: dict[str, str]) -> None:
        fragment = fragment_of(stamp)
        others = into.get(header)
        into[header] = f"[{fragment}]" if others is None else f"{others[:-1]},{fragment}]"

    return write


def list_reader(cls: type[Stamp], header: str, rename: Rename, max_size: int, max_depth: int) -> Reader:
    """Return how to read the stamps in the JSON list of a header."""
    codec = functools.cache(functools.partial(codec_for, cls, rename))
    checked = _CHECKS.get(cls)

    def parse(value: str) -> Sequence[Stamp]:
        if type(value) is not str:
            raise DecodingError("it is no text")
        if len(value) > max_size:
            raise DecodingError(f"it is longer than {max_size} characters")
        if nested_deeper_than(max_depth, value):
            raise DecodingError(f"it is nested deeper than {max_depth} levels")
        objects = msgspec.json.decode(value)
        if type(objects) is not list:
            raise DecodingError("it is no JSON list")
        stamps = [codec().from_builtins(each) for each in objects]
        return stamps if checked is None else [checked(each) for each in stamps]

    def read(value: str) -> Sequence[Stamp]:
        try:
            return parse(value)
        except BaseException as error:  # noqa: BLE001 - a user's stamp class may raise anything
            raise DecodingError(f'its header "{header}" cannot be read: {unreadable(error)}') from None

    return _remembering(read) if cls is BusNameStamp else read


def _remembering(read: Reader) -> Reader:
    """Read the few different values of a header once; stamps are immutable."""
    remembered = functools.lru_cache(maxsize=128)(lambda value: tuple(read(value)))
    return lambda value: remembered(value) if type(value) is str and len(value) < 256 else read(value)


def is_plain(text: str) -> bool:
    """Tell whether a text can be a header's value on every transport and stay one line in a log."""
    return _NOT_PLAIN.search(text) is None


def clamped(number: int, smallest: int, largest: int) -> int:
    """Return the number, or the end of the range that is nearest to it."""
    return max(smallest, min(number, largest))


def _whole(cls: type[Stamp], field: str, value: object, smallest: int, largest: int) -> int:
    if type(value) is not int or not smallest <= value <= largest:
        raise EncodingError(
            f'The stamp "{cls.__name__}" cannot be written: '
            f'its "{field}" is no whole number from {smallest} to {largest}.'
        )
    return value


# --- how each class is written ---


def _object_writer(cls: type[Stamp], rename: Rename) -> Callable[[Any], str]:
    codec = functools.cache(functools.partial(codec_for, cls, rename))

    def write(stamp: Stamp) -> str:
        try:
            text = codec().encode(stamp)
            codec().decode(text)  # a value of a wrong type would make the message unreadable
        except Exception as error:
            reason = unwritable(stamp, error)
            raise EncodingError(f'The stamp "{cls.__qualname__}" cannot be written: {reason}.') from error
        return text.decode()

    return write


@functools.lru_cache(maxsize=128)
def _bus_name_object(name: str) -> str:
    return _write_bus_name_object(BusNameStamp(name))


def _bus_name(stamp: BusNameStamp) -> str:
    return _bus_name_object(stamp.bus_name) if type(stamp.bus_name) is str else _write_bus_name_object(stamp)


def _delay(stamp: DelayStamp) -> str:
    # A negative delay is none; Symfony's AMQP transport cannot even declare the queue for one.
    return f'{{"delay":{max(0, _whole(DelayStamp, "delay", stamp.delay, -LONGEST_DELAY, LONGEST_DELAY))}}}'


def _redelivery(stamp: RedeliveryStamp) -> str:
    count = _whole(RedeliveryStamp, "retry_count", stamp.retry_count, 0, LARGEST)
    at = "" if stamp.redelivered_at is None else f',"redeliveredAt":"{_to_the_second(stamp.redelivered_at)}"'
    # Symfony 5.4 writes the two nulls; later versions ignore them.
    return f'{{"retryCount":{count},"exceptionMessage":null,"flattenException":null{at}}}'


def _to_the_second(at: datetime) -> str:
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    text: str = msgspec.to_builtins(at.replace(microsecond=0))
    return text.replace("Z", "+00:00")


def _error_details(stamp: ErrorDetailsStamp) -> str:
    return _write_error_details_object(_with_readable_trace(stamp))


def _handled(stamp: HandledStamp) -> str:
    return _write_handled_object(HandledStamp(None, stamp.handler_name))


_write_bus_name_object = _object_writer(BusNameStamp, "camel")
_write_error_details_object = _object_writer(ErrorDetailsStamp, "camel")
_write_handled_object = _object_writer(HandledStamp, "camel")

_FRAGMENTS: Final[dict[type[Stamp], Callable[[Any], str]]] = {
    BusNameStamp: _bus_name,
    DelayStamp: _delay,
    RedeliveryStamp: _redelivery,
    ErrorDetailsStamp: _error_details,
    HandledStamp: _handled,
}


# --- what is not believed ---


class _FlattenException(msgspec.Struct):
    """What Symfony's reader needs; where it misses something, the error ends the PHP worker."""

    message: str
    class_: str = msgspec.field(name="class")
    file: str
    line: int
    status_text: str
    code: int | str = 0
    status: int = 500
    headers: list[Any] | dict[str, Any] = []
    previous: _FlattenException | None = None
    trace: list[dict[str, Any]] = []
    trace_as_string: str = ""


def _with_readable_trace(stamp: ErrorDetailsStamp) -> ErrorDetailsStamp:
    """Leave out the full form of an error that Symfony could not read."""
    if stamp.flatten_exception is None:
        return stamp
    try:
        msgspec.convert(stamp.flatten_exception, _FlattenException)
    except (msgspec.ValidationError, RecursionError):
        return replace(stamp, flatten_exception=None)
    return stamp


_CHECKS: Final[dict[type[Stamp], Callable[[Any], Stamp]]] = {
    DelayStamp: lambda stamp: replace(stamp, delay=clamped(stamp.delay, 0, LONGEST_DELAY)),
    RedeliveryStamp: lambda stamp: replace(stamp, retry_count=clamped(stamp.retry_count, 0, LARGEST)),
    ErrorDetailsStamp: _with_readable_trace,
}
