"""Message ids: UUID version 7 (RFC 9562, section 5.7), so that ids sort by time of creation."""

from __future__ import annotations

import os
import random
import time

_source = random.Random()  # noqa: S311 - ids must be unique, not secret; seeded from the operating system

# A forked child would otherwise draw the same numbers as its parent.
os.register_at_fork(after_in_child=_source.seed)


def uuid7() -> str:
    """Return a new UUIDv7 in its canonical text form. Thread-safe and fork-safe."""
    milliseconds = time.time_ns() // 1_000_000
    noise = _source.getrandbits(74)
    value = (milliseconds << 80) | 0x7000_8000_0000_0000_0000 | ((noise >> 62) << 64) | (noise & 0x3FFF_FFFF_FFFF_FFFF)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
