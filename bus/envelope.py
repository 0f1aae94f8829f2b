"""The envelope: a message and its stamps."""

from __future__ import annotations

from typing import Any, TypeVar, final

import msgspec

from bus.stamps import Stamp

S = TypeVar("S", bound=Stamp)


@final
class Envelope(msgspec.Struct, frozen=True):
    """A message and what is known about it. Immutable: every change makes a new envelope.

    Attributes:
        message: the message itself.
        stamps: in the order in which they were added, the oldest first.
    """

    # A Struct and no dataclass: every middleware may make one and read one, and it does both in C.
    message: Any
    stamps: tuple[Stamp, ...] = ()

    @staticmethod
    def wrap(message: object, *stamps: Stamp) -> Envelope:
        """Put a message into an envelope, or add stamps to the envelope that it already is."""
        if isinstance(message, Envelope):
            return message.with_(*stamps) if stamps else message
        return Envelope(message, stamps)

    def with_(self, *stamps: Stamp) -> Envelope:
        """Return an envelope with these stamps added at the end."""
        return Envelope(self.message, self.stamps + stamps)

    def without(self, *types: type[Stamp]) -> Envelope:
        """Return an envelope without the stamps of exactly these types."""
        return Envelope(self.message, tuple(each for each in self.stamps if type(each) not in types))

    def last(self, stamp_type: type[S]) -> S | None:
        """Return the stamp of exactly this type that was added last, or None."""
        for each in reversed(self.stamps):
            if type(each) is stamp_type:
                return each
        return None

    def all(self, stamp_type: type[S]) -> tuple[S, ...]:
        """Return the stamps of exactly this type, in the order in which they were added."""
        return tuple([each for each in self.stamps if type(each) is stamp_type])

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Envelope({self.message!r}, {self.stamps!r})"
