"""Adds the stamps that a message brings along."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bus.envelope import Envelope
from bus.errors import EncodingError
from bus.messages import options_of
from bus.middleware.base import CallNext
from bus.stamps import PartitionKeyStamp, ReceivedStamp, Stamp

StampsOf = Callable[[Any], Iterable[Stamp]]


class DefaultStampsMiddleware:
    """Adds what the message's own ``default_stamps()`` returns and the key that ``@message(partition_key=)`` names.

    A stamp of a type that the envelope has already is not added: the dispatch decides.
    """

    def __init__(self) -> None:
        self._by_class: dict[type, StampsOf | None] = {}

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Stamp a message on its first way through; a received one has its stamps."""
        cls = type(envelope.message)
        try:
            stamps_of = self._by_class[cls]
        except KeyError:
            stamps_of = self._by_class[cls] = _stamps_of(cls)
        if stamps_of is not None and envelope.last(ReceivedStamp) is None:
            present = {type(stamp) for stamp in envelope.stamps}
            envelope = envelope.with_(*(stamp for stamp in stamps_of(envelope.message) if type(stamp) not in present))
        return call_next(envelope)


def _stamps_of(cls: type) -> StampsOf | None:
    key = options_of(cls).partition_key
    own = getattr(cls, "default_stamps", None)
    if key is None:
        return own if callable(own) else None

    def stamps(message: Any) -> Iterable[Stamp]:
        try:
            value = getattr(message, key)
        except AttributeError:
            raise EncodingError(
                f'The message class "{cls.__qualname__}" names the partition key "{key}", which it does not have.'
            ) from None
        yield PartitionKeyStamp(str(value))
        if callable(own):
            yield from own(message)

    return stamps
