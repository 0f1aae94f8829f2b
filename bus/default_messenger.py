"""The messenger behind ``bus.dispatch``: found in the working directory, loaded once, at the first use.

Where nothing was loaded, handlers of a messenger that was made in Python and consumes here use that one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

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
        return self._messenger or Messenger.consuming or self.load(Messenger.from_yaml, unless_loaded=True)

    def load(self, make: Callable[[], Messenger], *, unless_loaded: bool = False) -> Messenger:
        with self._lock:
            if self._loading:
                raise ConfigurationError(
                    f'The module "{_calling_module()}" dispatches while it is being imported by the configuration '
                    "that the dispatch needs; dispatch from a function that runs later."
                )
            if self._messenger is None or not unless_loaded:
                self._loading = True
                try:
                    self._messenger = make()
                finally:
                    self._loading = False
            return self._messenger

    def forget(self) -> None:
        self._messenger = None

    def replace(self, messenger: Messenger | None) -> Messenger | None:
        with self._lock:
            before, self._messenger = self._messenger, messenger
            return before

    def forget_lock(self) -> None:
        self._lock = threading.RLock()


def _calling_module() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


_default = _Default()
os.register_at_fork(after_in_child=_default.forget_lock)


@contextmanager
def as_default(make: Callable[[], Messenger]) -> Iterator[Messenger]:
    """Make a messenger, have ``bus.dispatch`` use it for the length of a ``with`` block, and close it.

    So handlers of a worker dispatch on the configuration that the worker was started with.
    """
    with _default.load(make) as messenger:
        try:
            yield messenger
        finally:
            _default.forget()


@contextmanager
def replaced_by(messenger: Messenger) -> Iterator[None]:
    """Have ``bus.dispatch`` use this messenger for the length of a ``with`` block, and then the one from before."""
    before = _default.replace(messenger)
    try:
        yield
    finally:
        _default.replace(before)


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
