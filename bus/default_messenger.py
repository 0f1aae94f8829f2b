"""The messenger behind ``bus.dispatch``: found in the working directory, loaded once, at the first use."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable

from bus.envelope import Envelope
from bus.errors import ConfigurationError
from bus.messenger import Messenger
from bus.stamps import Stamp


class _Default:
    def __init__(self) -> None:
        self._messenger: Messenger | None = None
        self._lock = threading.RLock()
        self._loading = False

    def get(self) -> Messenger:
        if self._messenger is None:
            with self._lock:
                if self._loading:
                    raise ConfigurationError(
                        f'The module "{_calling_module()}" dispatches while it is being imported by the configuration '
                        "that the dispatch needs; dispatch from a function that runs later."
                    )
                if self._messenger is None:
                    self._loading = True
                    try:
                        self._messenger = Messenger.from_yaml()
                    finally:
                        self._loading = False
        return self._messenger

    def forget_lock(self) -> None:
        self._lock = threading.RLock()


def _calling_module() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


_default = _Default()
os.register_at_fork(after_in_child=_default.forget_lock)


def dispatch(message: object, stamps: Iterable[Stamp] = ()) -> Envelope:
    """Dispatch a message on the default bus of the configuration that is found in the working directory.

    The configuration is loaded once, at the first call, thread-safely. Otherwise as MessageBus.dispatch.
    """
    return _default.get().bus.dispatch(message, stamps)


def dispatch_many(messages: Iterable[object], stamps: Iterable[Stamp] = ()) -> list[Envelope]:
    """Dispatch messages on the default bus and wait once for all; see MessageBus.dispatch_many."""
    return _default.get().bus.dispatch_many(messages, stamps)


async def dispatch_async(message: object, stamps: Iterable[Stamp] = ()) -> Envelope:
    """Dispatch a message on the default bus without blocking the loop; see MessageBus.dispatch_async."""
    return await _default.get().bus.dispatch_async(message, stamps)
