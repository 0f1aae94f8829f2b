"""Which lanes of a queue this worker reads: those of priorities, and of the partitions that it owns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from bus.transports.partitions import OwnedPartitions, partition_of_key

# One column says both: below stand the priorities, -255 to 255, from here on the partitions. A keyed message has no
# priority, for it may not overtake those of its key.
FIRST_LANE: Final = 1000


def lane_of(key: str, partitions: int) -> int:
    """Return the lane of a partition key."""
    return FIRST_LANE + partition_of_key(key, partitions)


def partition_of(lane: int) -> int | None:
    """Return the partition that a lane is, or None where it is that of a priority."""
    return lane - FIRST_LANE if lane >= FIRST_LANE else None


class Partitions(OwnedPartitions):
    """The partitions of one queue, as lanes beside those of the priorities."""

    def _begin(self) -> None:
        super()._begin()
        self._turn = 0
        self._found = False  # partitions in a queue that has none by its options: somebody else's have

    def _has_partitions(self) -> bool:
        return self._found or super()._has_partitions()

    def notice(self, lanes: Iterable[int]) -> None:
        """Take note of the lanes of the queue: partitions may be there although the options name none."""
        self._found = any(lane >= FIRST_LANE for lane in lanes)

    def readable(self, lanes: Iterable[int]) -> Sequence[int]:
        """Return which of these lanes, given in order, may be read now, and in which order.

        Partitions stand beside priority 0, and take turns with it, so that none of them starves.
        """
        lanes = list(lanes)
        self.notice(lanes[-1:])
        there = set(lanes)
        return [
            *(lane for lane in lanes if lane < 0),
            *(lane for lane in self.beside() if lane in there),
            *(lane for lane in lanes if 0 < lane < FIRST_LANE),
        ]

    def beside(self) -> Sequence[int]:
        """Return lane 0 and the lanes of the partitions that may be read now, in the order of this turn."""
        beside = [0, *(FIRST_LANE + partition for partition in sorted(self.open))]
        self._turn = (self._turn + 1) % len(beside)
        return beside[self._turn :] + beside[: self._turn]
