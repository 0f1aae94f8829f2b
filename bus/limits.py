"""When a worker stops by itself."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bus.clock import Clock, SystemClock
from bus.errors import ConfigurationError
from bus.events import Events, MessageSettled, WorkerIdle, WorkerStarted

_FAILURES: Final = frozenset({"retried", "failed", "parked", "discarded"})
_UNITS: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_STATM = Path("/proc/self/statm")
_MEMORY_LOOK: Final = 0.1  # seconds between two looks at the memory: each is a system call or three


class Limited(Protocol):
    """What a limit can do with a worker."""

    def stop(self, reason: str) -> None:
        """Begin no further message."""

    def allow(self, messages: int) -> None:
        """Begin so many messages and no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a worker stops by itself; None is no limit. What it has begun is finished.

    Attributes:
        messages: how many it handles, exactly, whatever becomes of them.
        failures: how many attempts may fail.
        seconds: how long it runs, within a second when it is idle.
        memory: how many bytes of resident memory it may have.
    """

    messages: int | None = None
    failures: int | None = None
    seconds: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        values = {
            "messages": self.messages,
            "failures": self.failures,
            "seconds": self.seconds,
            "memory": self.memory,
        }
        problems = [
            f'The limit "{name}" is {value}; it must be more than 0.'
            for name, value in values.items()
            if value is not None and not value > 0
        ]
        if problems:
            raise ConfigurationError(*problems)

    def watch(self, worker: Limited, events: Events, clock: Clock | None = None) -> None:
        """Hold the worker that emits these events to the limits."""
        if self.messages is not None:
            worker.allow(self.messages)
        if self.failures is not None:
            limit_failures(worker, events, self.failures)
        if self.seconds is not None:
            limit_time(worker, events, self.seconds, clock or SystemClock())
        if self.memory is not None:
            limit_memory(worker, events, self.memory, clock or SystemClock())


def limit_failures(worker: Limited, events: Events, limit: int) -> None:
    """Stop the worker when ``limit`` attempts have failed."""
    lock = threading.Lock()
    failures = 0

    def count(event: MessageSettled) -> None:
        nonlocal failures
        if event.outcome in _FAILURES:
            with lock:
                failures += 1
            if failures >= limit:
                worker.stop(f"failure limit of {limit} reached")

    events.on(MessageSettled, count)


def limit_time(worker: Limited, events: Events, seconds: float, clock: Clock) -> None:
    """Stop the worker when it has run for ``seconds``."""
    ends = clock.monotonic() + seconds

    def start(event: WorkerStarted) -> None:
        nonlocal ends
        ends = clock.monotonic() + seconds

    def look(event: MessageSettled | WorkerIdle) -> None:
        if clock.monotonic() >= ends:
            worker.stop(f"time limit of {seconds:g} s reached")

    events.on(WorkerStarted, start)
    events.on(MessageSettled, look)
    events.on(WorkerIdle, look)


def limit_memory(
    worker: Limited, events: Events, limit: int, clock: Clock, resident: Callable[[], int] | None = None
) -> None:
    """Stop the worker when it has ``limit`` bytes of resident memory, as ``resident`` tells."""
    tell = resident or resident_memory
    next_look = 0.0

    def look(event: MessageSettled) -> None:
        nonlocal next_look
        now = clock.monotonic()
        if now < next_look:
            return
        next_look = now + _MEMORY_LOOK
        used = tell()
        if used >= limit:
            worker.stop(f"memory limit of {limit} bytes reached ({used} in use)")

    events.on(MessageSettled, look)


def resident_memory() -> int:
    """Return the bytes of this process that are in memory; where the system does not tell, the most that ever were."""
    try:
        return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kibibytes elsewhere


def parse_size(text: str) -> int:
    """Return the bytes that ``128M``, ``1.5G``, ``64k`` or a bare number of bytes mean.

    Raises:
        ConfigurationError: it cannot be read, or is not more than 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ConfigurationError(f'The size "{text}" cannot be read; write it as "128M", "1.5G" or a number of bytes.')
    return size
