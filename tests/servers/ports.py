"""Ports for private servers, below those that the system gives to outgoing connections.

A server that is down must find its ports free when it comes back, so nobody else may be given them meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

MARIADB = range(23_300, 23_400)
POSTGRES = range(25_400, 25_500)
PROXIES = range(22_400, 22_500)
RABBITMQ = range(22_000, 22_400)
REDIS = range(26_300, 26_400)


@contextmanager
def reserved(block: range, count: int) -> Iterator[int]:
    """Yield the first of ``count`` consecutive free ports of a block, kept from other test runs meanwhile."""
    folder = Path(tempfile.gettempdir()) / f"bus-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(block.start, block.stop - count + 1, count):
        with (folder / str(first)).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if all(_is_free(port) for port in range(first, first + count)):
                yield first
                return
    raise RuntimeError(f"All ports from {block.start} to {block.stop - 1} are in use.")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
