"""Message ids: UUID version 7 (RFC 9562, section 5.7), so that ids sort by time of creation."""

from __future__ import annotations

import os
import random
import time


class _Generator:
    """Makes ids. The text of the last millisecond is kept: formatting it anew takes half of the time."""

    __slots__ = ("_last", "_source")

    def __init__(self) -> None:
        self._source = random.Random()  # noqa: S311 - ids must be unique, not secret; seeded from the operating system
        self._last = (-1, "")
        # A forked child would otherwise draw the same numbers as its parent.
        os.register_at_fork(after_in_child=self._source.seed)

    def uuid7(self) -> str:
        """Return a new UUIDv7 in its canonical text form, with 72 random bits. Thread-safe and fork-safe."""
        milliseconds, start = self._last
        now = time.time_ns() // 1_000_000
        if now != milliseconds:
            start = f"{now >> 16:08x}-{now & 0xFFFF:04x}-7"
            self._last = (now, start)  # one assignment of a pair: threads see the old or the new one
        noise = self._source.getrandbits(72).to_bytes(9, "big").hex()
        # 8 says that the variant is RFC 9562's.
        return f"{start}{noise[:3]}-8{noise[3:6]}-{noise[6:]}"


uuid7 = _Generator().uuid7
