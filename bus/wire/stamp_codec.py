"""Stamps on the wire: which header carries which stamp.

Symfony's stamps travel as Symfony writes them: one header per class, a JSON list with an object per stamp. Ours travel
as plain headers, users' own as JSON lists under ``X-Bus-Stamp-``. What belongs to one process is neither written nor
read; what nobody here knows is kept as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bus import headers
from bus.deduplication import DeduplicateStamp
from bus.errors import ConfigurationError, DecodingError, EncodingError
from bus.stamps import (
    BusNameStamp,
    CausationStamp,
    CorrelationStamp,
    DelayStamp,
    ErrorDetailsStamp,
    HandledStamp,
    MessageIdStamp,
    NonSendableStamp,
    OriginStamp,
    PartitionKeyStamp,
    PostponedStamp,
    PriorityStamp,
    RedeliveryStamp,
    RouterContextStamp,
    SentToFailureTransportStamp,
    SerializerStamp,
    Stamp,
    TransportMessageIdStamp,
    UnknownStamps,
    ValidationStamp,
)
from bus.wire.object_shape import Rename
from bus.wire.stamp_headers import LARGEST, Reader, Writer, list_reader, list_writer, number_codec, text_codec

# Stamp, header, field, shortest and longest value. An id has to fit into a column and an AMQP short string.
_TEXTS: Final = (
    (MessageIdStamp, headers.MESSAGE_ID, "id", 1, 255),
    (CorrelationStamp, headers.CORRELATION_ID, "id", 1, 255),
    (CausationStamp, headers.CAUSATION_ID, "id", 1, 255),
    (PartitionKeyStamp, headers.PARTITION_KEY, "key", 0, 1024),
    (OriginStamp, headers.ORIGIN, "origin", 1, 1024),
)
# Stamp, header, field, smallest value.
_NUMBERS: Final = (
    (PriorityStamp, headers.PRIORITY, "priority", -LARGEST),
    (PostponedStamp, headers.POSTPONED, "count", 0),
)
_SYMFONY: Final[tuple[type[Stamp], ...]] = (
    BusNameStamp,
    DelayStamp,
    RedeliveryStamp,
    ErrorDetailsStamp,
    SentToFailureTransportStamp,
    TransportMessageIdStamp,
    HandledStamp,
    SerializerStamp,
    ValidationStamp,
    RouterContextStamp,
)
# Symfony keeps the first and the last nine of the first two, on a message that is tried again and again; each delivery
# adds one of the third.
_SHORTENED: Final = (RedeliveryStamp, DelayStamp, TransportMessageIdStamp)
_KEPT: Final = 10

# What Symfony never sends. It would believe such a header: it does not send a message that has a ReceivedStamp.
_PROCESS_ONLY: Final = re.compile(
    re.escape(headers.STAMP_PREFIX)
    + r"\\?Symfony\\Component\\Messenger\\(\w+\\)*(\w*ReceivedStamp|AckStamp|AmqpStamp|ConsumedByWorkerStamp"
    r"|DispatchAfterCurrentBusStamp|FlushBatchHandlersStamp|HandlerArgumentsStamp|MessageDecodingFailedStamp"
    r"|NoAutoAckStamp|SentForRetryStamp|SentStamp|SerializedMessageStamp)",
    re.IGNORECASE,  # as PHP's class names are
)


class StampCodec:
    """Writes stamps into headers and reads them back. Thread-safe.

    ``stamps`` are the users' own, each with a name given by ``@stamp("name")``. A name with a backslash is a PHP class
    that both sides have: such a stamp travels as Symfony writes it, with its fields in camelCase.

    Raises:
        ConfigurationError: two stamps have one name.
    """

    def __init__(self, stamps: Iterable[type[Stamp]], max_size: int, max_depth: int) -> None:
        self._bounds = (max_size, max_depth)
        self._writers: dict[type[Stamp], Writer] = {UnknownStamps: self._write_foreign}
        # None stands for a header that carries no stamp, or one for the driver of one delivery only.
        self._readers: dict[str, Reader | None] = dict.fromkeys((headers.TYPE, headers.CONTENT_TYPE))
        self._readers.update(dict.fromkeys(headers.OF_ONE_DELIVERY))
        for text in _TEXTS:
            self._writers[text[0]], self._readers[text[1]] = text_codec(*text)
        for number in _NUMBERS:
            self._writers[number[0]], self._readers[number[1]] = number_codec(*number)
        for cls in _SYMFONY:
            self._add(cls, headers.STAMP_PREFIX + headers.SYMFONY_STAMPS + cls.__name__, "camel")
        self._add(DeduplicateStamp, headers.DEDUPLICATE, None)
        for cls in dict.fromkeys(stamps):
            header, rename = _header_of(cls)
            if header in self._readers or _PROCESS_ONLY.fullmatch(header):
                raise ConfigurationError(
                    f'the stamp "{_path(cls)}" cannot have the header "{header}": it is that of another stamp; '
                    "choose another name in @stamp(...)"
                )
            self._add(cls, header, rename)

    def write(self, stamps: Sequence[Stamp], into: dict[str, str]) -> None:
        """Add the headers of stamps. The id of a message without a CorrelationStamp, a root, is its correlation too.

        Raises:
            EncodingError: a stamp cannot be written; names it.
        """
        if len(stamps) > _KEPT:
            stamps = _shortened(stamps)
        writers = self._writers
        for stamp in stamps:
            kind = type(stamp)
            (writers.get(kind) or self._writer_of(kind))(stamp, into)
        if headers.MESSAGE_ID in into and headers.CORRELATION_ID not in into:
            into[headers.CORRELATION_ID] = into[headers.MESSAGE_ID]

    def read(self, fields: Mapping[str, str]) -> tuple[Stamp, ...]:
        """Return the stamps of a message. Headers that nobody here knows are kept in an UnknownStamps, at the end.

        Raises:
            DecodingError: a header cannot be read; names it.
        """
        stamps: list[Stamp] = []
        foreign: dict[str, str] = {}
        readers = self._readers
        for name, value in fields.items():
            if name in readers:
                reader = readers[name]
                if reader is not None:
                    stamps += reader(value)
            else:
                _check_foreign(name, value)
                if not _PROCESS_ONLY.fullmatch(name):
                    foreign[name] = value
        if foreign:
            stamps.append(UnknownStamps(foreign))
        return tuple(stamps)

    def read_what_can_be(self, fields: Mapping[str, str]) -> tuple[Stamp, ...]:
        """Return the stamps of those known headers that can be read. Never raises."""
        stamps: list[Stamp] = []
        for name, value in fields.items():
            reader = self._readers.get(name)
            if reader is not None:
                try:
                    stamps += reader(value)
                except DecodingError:
                    continue
        return tuple(stamps)

    def _writer_of(self, cls: type[Stamp]) -> Writer:
        if issubclass(cls, NonSendableStamp):
            writer: Writer = _write_nothing
        elif "__bus_stamp__" in vars(cls):
            writer = list_writer(cls, *_header_of(cls))
        else:
            raise EncodingError(
                f'The stamp "{_path(cls)}" has no name on the wire: give it one with @stamp("name"), or let it '
                "inherit from NonSendableStamp to keep it in this process."
            )
        return self._writers.setdefault(cls, writer)

    def _write_foreign(self, stamp: UnknownStamps, into: dict[str, str]) -> None:
        # What is known here is written from its stamp only.
        into.update({name: value for name, value in stamp.headers.items() if name not in self._readers})

    def _add(self, cls: type[Stamp], header: str, rename: Rename) -> None:
        self._writers[cls] = list_writer(cls, header, rename)
        self._readers[header] = list_reader(cls, header, rename, *self._bounds)


def _header_of(cls: type[Stamp]) -> tuple[str, Rename]:
    name = str(vars(cls)["__bus_stamp__"])
    return (headers.STAMP_PREFIX + name, "camel") if "\\" in name else (headers.USER_STAMP_PREFIX + name, None)


def _write_nothing(stamp: Stamp, into: dict[str, str]) -> None:
    """Leave out a stamp that stays in this process."""


def _check_foreign(name: str, value: str) -> None:
    try:
        name.encode()
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise DecodingError("one of its headers is no text") from None


def _shortened(stamps: Sequence[Stamp]) -> Sequence[Stamp]:
    for kind in _SHORTENED:
        positions = [position for position, stamp in enumerate(stamps) if type(stamp) is kind]
        dropped = set(positions[1 : 1 - _KEPT])
        stamps = [stamp for position, stamp in enumerate(stamps) if position not in dropped]
    return stamps


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
