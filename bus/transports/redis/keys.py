"""The names of keys, and the ids that say where a message stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bus.transports.redis.options import DEFAULT_GROUP

# Where messages wait that a worker gave back: a consumer that nobody is.
FREE: Final = "bus:free"
# How a consumer of ours ends, so that it is told from one of PHP's.
OURS: Final = ":%d+:%x%x%x%x%x%x%x%x$"  # a Lua pattern

_ID = re.compile(
    r"(?P<kind>delayed-|parked-|taken-(?:delayed-|parked-)?)?"
    r"(?P<lane>(?:p\d{1,4}-)?(?:retry-)?)(?P<first>\d{1,20})-(?P<second>[0-9a-f]{1,20})"
)
_HASH_TAG = re.compile(r"\{[^}]+\}")


@dataclass(frozen=True, slots=True)
class Lane:
    """A stream and the sorted set of its delayed messages.

    Attributes:
        stream: the key of the stream.
        prefix: what the ids of its entries begin with, to tell them from those of other lanes.
        partition: the partition that it is, or None.
        retries: whether only this group's requeued messages stand in it.
    """

    stream: str
    prefix: str
    partition: int | None = None
    retries: bool = False

    @property
    def queue(self) -> str:
        """The key of the sorted set, Symfony's."""
        return f"{self.stream}__queue"


class Keys:
    """The keys of one stream as one group uses them.

    In a cluster every key has to be in the slot of the stream, which a hash tag sees to: where the name has none, it
    becomes one.
    """

    def __init__(self, stream: str, group: str, *, cluster: bool = False) -> None:
        self.group = group
        self.origin = origin_of(stream, group)
        self.stream = f"{{{stream}}}" if cluster and not _HASH_TAG.search(stream) else stream
        self.parked = f"{self.stream}__parked"
        self.taken = f"{self.stream}__taken"
        self.wake = f"{self.stream}__wake"
        self.main = Lane(self.stream, "")
        self.retry = Lane(f"{self.stream}.{group}.retry", "retry-", retries=True)

    def partition(self, number: int) -> Lane:
        """Return the lane of a partition."""
        return Lane(f"{self.stream}.{number}", f"p{number}-", number)

    def partition_retry(self, number: int) -> Lane:
        """Return the lane of this group's retries in a partition."""
        return Lane(f"{self.stream}.{number}.{self.group}.retry", f"p{number}-retry-", number, retries=True)

    def pair(self, partition: int | None) -> tuple[Lane, Lane]:
        """Return the lane of a partition, or the main one, and the one of its retries."""
        if partition is None:
            return self.main, self.retry
        return self.partition(partition), self.partition_retry(partition)

    def place(self, transport_id: str) -> Place | None:
        """Return what an id means, or None where it is none of ours."""
        found = _ID.fullmatch(transport_id)
        if found is None:
            return None
        kind = (found["kind"] or "entry-").partition("-")[0]
        if kind in ("parked", "taken"):
            return Place(kind, self.main, transport_id.partition("-")[2], "", transport_id)
        lane = self._lane(found["lane"])
        if kind == "entry":
            return Place(kind, lane, f"{found['first']}-{found['second']}", "", transport_id)
        return Place(kind, lane, found["second"], found["first"], transport_id)

    def _lane(self, prefix: str) -> Lane:
        retries = prefix.endswith("retry-")
        number = prefix.removesuffix("retry-").strip("p-")
        return self.pair(int(number) if number else None)[retries]

    def alive(self, consumer: str) -> str:
        """Return the key that is there as long as a consumer lives."""
        return f"{self.stream}__alive:{self.group}:{consumer}"

    def sent(self, token: str) -> str:
        """Return the key that is there for a while after a send."""
        return f"{self.stream}__sent:{token}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message stands that is asked for by its id.

    Attributes:
        kind: entry (of a stream), delayed (in a sorted set), parked, or taken (held by somebody).
        lane: which stream or sorted set; of no meaning for what is parked or taken.
        id: the id there; of a delayed one the beginning of the SHA-1 of its value.
        score: of a delayed one, when it becomes due.
        text: the whole id.
    """

    kind: str
    lane: Lane
    id: str
    score: str
    text: str


def origin_of(stream: str, group: str) -> str:
    """Return the text that names a stream and a group; Symfony's default group need not be named."""
    return stream if group == DEFAULT_GROUP and "/" not in stream else f"{stream}/{group}"


def stream_and_group(origin: str) -> tuple[str, str]:
    """Return what ``origin_of`` was made from."""
    stream, slash, group = origin.rpartition("/")
    return (stream, group) if slash else (origin, DEFAULT_GROUP)
