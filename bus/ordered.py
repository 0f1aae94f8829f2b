"""How a key keeps its order when one of its messages fails: the message waits in place, and its followers behind it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from bus.clock import Clock
from bus.envelope import Envelope
from bus.stamps import ConsumedByWorkerStamp, NonSendableStamp

if TYPE_CHECKING:
    from bus.lanes import LaneKey, ReceivedMessage

LONGEST_RETRYING: Final = 600.0  # seconds from the first failure to the last retry
_BETWEEN_LOOKS: Final = 1.0  # seconds; so soon a lane goes on whose waiting message was taken away


class InPlace:
    """Where one message of an ordered key waits when it is put back: in its worker's hands, at the head of its lane.

    Used by the thread that handles the message.
    """

    __slots__ = ("_clock", "_failing_since", "_message")

    def __init__(self, message: ReceivedMessage, clock: Clock) -> None:
        self._message = message
        self._clock = clock
        self._failing_since: float | None = None

    def has_time_for(self, delay_ms: int) -> bool:
        """Tell whether a retry after this delay is within 10 minutes of the first failure."""
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        return now + delay_ms / 1000 - self._failing_since <= LONGEST_RETRYING

    def wait(self, envelope: Envelope, delay_ms: int) -> None:
        """Have the message begun again after the delay, with the stamps that a requeued one would come back with."""
        message = self._message
        received = {id(each) for each in message.envelope.stamps if not isinstance(each, ConsumedByWorkerStamp)}
        stamps = (each for each in envelope.stamps if not isinstance(each, NonSendableStamp) or id(each) in received)
        message.envelope = Envelope(envelope.message, tuple(stamps))
        message.again_at = self._clock.monotonic() + delay_ms / 1000


class RestingLanes:
    """The lanes whose first message waits in place. Changed under the lock of ``Lanes``; read by any thread."""

    __slots__ = ("_first", "_followers", "_held", "_next_look")

    def __init__(self) -> None:
        self._first: dict[LaneKey, ReceivedMessage] = {}
        self._held: Counter[int] = Counter()
        self._followers: Counter[tuple[int, int | None]] = Counter()
        self._next_look = 0.0

    def __len__(self) -> int:
        return len(self._first)

    def held(self, receiver: int) -> int:
        """Return how many messages of a receiver rest or stand behind one that does."""
        return self._held[receiver]

    @property
    def held_in_all(self) -> int:
        """How many messages rest or stand behind one that does."""
        return sum(list(self._held.values()))

    def full_partitions(self, receiver: int, window: int) -> set[int]:
        """Return the partitions of a receiver in which so many messages or more stand behind resting ones."""
        return {
            partition
            for (position, partition), count in list(self._followers.items())
            if position == receiver and partition is not None and count >= window
        }

    def seconds_until_look(self, now: float) -> float:
        """Return how long there is nothing to rouse; meaningful while any lane rests."""
        return max(0.0, self._next_look - now)

    # --- the caller holds the lock of Lanes ---

    def add(self, lane: LaneKey, message: ReceivedMessage, followers: int) -> None:
        """Have a lane rest until its first message is due."""
        self._next_look = 0.0
        self._first[lane] = message
        self._count(message, followers, 1)

    def follow(self, lane: LaneKey) -> None:
        """Take note of a message that lines up; it counts where its lane rests."""
        first = self._first.get(lane)
        if first is not None:
            self._held[first.receiver] += 1
            self._followers[first.receiver, first.claim.partition] += 1

    def due(self, now: float) -> list[tuple[LaneKey, ReceivedMessage]]:
        """Return the lanes that go on now: their first message is due, or was taken away."""
        if not self._first or now < self._next_look:
            return []
        due, next_look = [], now + _BETWEEN_LOOKS
        for lane, message in self._first.items():
            assert message.again_at is not None
            if message.again_at <= now or message.claim.withdrawn:
                due.append((lane, message))
            else:
                next_look = min(next_look, message.again_at)
        self._next_look = next_look
        return due

    def remove(self, lane: LaneKey, followers: int) -> None:
        """Have a lane go on."""
        self._count(self._first.pop(lane), followers, -1)

    def _count(self, first: ReceivedMessage, followers: int, sign: int) -> None:
        self._held[first.receiver] += sign * (1 + followers)
        partition = first.receiver, first.claim.partition
        self._followers[partition] += sign * followers
        if not self._followers[partition]:
            del self._followers[partition]
