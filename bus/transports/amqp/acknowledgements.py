"""Which deliveries of a channel are settled, so that one acknowledgement can stand for many."""

from __future__ import annotations

from collections.abc import Sequence


class Acknowledgements:
    """Delivery tags count from 1 on each channel. For one thread."""

    __slots__ = ("_contiguous", "_settled")

    def __init__(self) -> None:
        self._contiguous = 0
        self._settled: set[int] = set()

    def settled(self, tags: Sequence[int]) -> tuple[int, Sequence[int]]:
        """Take note of settled tags; return the one that can be acknowledged with all before it, and the others.

        The first is 0 where an older delivery is not settled yet. It is always one of ``tags``, because RabbitMQ knows
        an acknowledged tag no more.
        """
        settled = self._settled
        settled.update(tags)
        contiguous = self._contiguous
        while contiguous + 1 in settled:
            contiguous += 1
            settled.remove(contiguous)
        self._contiguous = contiguous
        within = [tag for tag in tags if tag <= contiguous]
        if not within:
            return 0, tags
        return max(within), [tag for tag in tags if tag > contiguous]
