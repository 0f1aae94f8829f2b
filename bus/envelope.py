"""The envelope: a message and its stamps."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, TypeVar, final

from bus.stamps import Stamp

S = TypeVar("S", bound=Stamp)


@final
class Envelope:
    """A message and what is known about it. Immutable: every change makes a new envelope.

    ``stamps`` keeps the order in which they were added.
    """

    __slots__ = ("_message", "_stamps")

    def __init__(self, message: object, stamps: tuple[Stamp, ...] = ()) -> None:
        self._message = message
        self._stamps = stamps

    # Read-only properties in C, and not a __setattr__ that raises: that would slow down making an envelope, too.
    message: Any = property(attrgetter("_message"), doc="The message itself.")
    stamps: tuple[Stamp, ...] = property(attrgetter("_stamps"), doc="The stamps, the oldest first.")  # type: ignore[assignment]

    @staticmethod
    def wrap(message: object, *stamps: Stamp) -> Envelope:
        """Put a message into an envelope, or add stamps to the envelope that it already is."""
        if isinstance(message, Envelope):
            return message.with_(*stamps) if stamps else message
        return Envelope(message, stamps)

    def with_(self, *stamps: Stamp) -> Envelope:
        """Return an envelope with these stamps added at the end."""
        return Envelope(self._message, self._stamps + stamps)

    def without(self, *types: type[Stamp]) -> Envelope:
        """Return an envelope without the stamps of exactly these types."""
        return Envelope(self._message, tuple(each for each in self._stamps if type(each) not in types))

    def last(self, stamp_type: type[S]) -> S | None:
        """Return the stamp of exactly this type that was added last, or None."""
        for each in reversed(self._stamps):
            if type(each) is stamp_type:
                return each
        return None

    def all(self, stamp_type: type[S]) -> tuple[S, ...]:
        """Return the stamps of exactly this type, in the order in which they were added."""
        return tuple([each for each in self._stamps if type(each) is stamp_type])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Envelope):
            return NotImplemented
        return bool(self._message == other.message) and self._stamps == other.stamps

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Envelope({self._message!r}, {self._stamps!r})"
