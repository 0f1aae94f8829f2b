"""A program that dispatches jobs one after the other, and says of each what became of it.

    python -m tests.faults.publisher CONFIGURATION PADDING PAUSE [FIRST]

With FIRST, the number of its first job, its jobs are mixed: some fail twice, and some for good.
It writes ``sent NUMBER SECONDS`` or ``refused NUMBER SECONDS ERROR`` and ends at SIGTERM.
"""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time

from bus import Messenger, TransportError
from bus.config.loader import load
from tests.faults.application import Job, mixed_job


def main(configuration: str, padding: int, pause: float, first: int | None) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Messenger(load(configuration)) as messenger:
        for number in itertools.count(first or 0):
            if stop.is_set():
                return
            started = time.monotonic()
            try:
                messenger.bus.dispatch(Job(number, padding="x" * padding) if first is None else mixed_job(number))
                print(f"sent {number} {time.monotonic() - started:.3f}", flush=True)
            except TransportError as error:
                taken = time.monotonic() - started
                print(f"refused {number} {taken:.3f} {type(error).__name__}: {error}", flush=True)
            stop.wait(pause)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
