"""The stamps of deduplication: what a caller asks for, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from bus.errors import ConfigurationError
from bus.stamps import NonSendableStamp, Stamp


@dataclass(frozen=True, slots=True)
class DeduplicateStamp(Stamp):
    """Drop the message if another one with this ``key`` is on the way, for at most ``ttl`` seconds; None: no bound.

    With ``only_deduplicate_in_queue`` a twin may come in as soon as this one is being handled. It is Symfony's stamp,
    and yet it travels in a header of ours: a PHP worker could not free a key in the store of this bus.
    """

    key: str
    ttl: float | None = 300.0
    only_deduplicate_in_queue: bool = False

    def __post_init__(self) -> None:
        if not self.key:
            raise ConfigurationError("A DeduplicateStamp needs a key")
        if self.ttl is not None and not self.ttl > 0:
            raise ConfigurationError(f"The ttl of a DeduplicateStamp is {self.ttl}; it must be more than 0 seconds")


@dataclass(frozen=True, slots=True)
class DeduplicatedStamp(NonSendableStamp):
    """The message was dropped: another one that is on the way has this key."""

    key: str
