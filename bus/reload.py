"""Notices when the code of the application changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bus.errors import MissingExtraError

logger = logging.getLogger(__name__)

_ALSO: Final = (".yaml", ".yml", ".env", ".env.local")  # endings of files that are no code and decide as much


@contextmanager
def code_watched(folder: Path, changed: Callable[[], None]) -> Iterator[None]:
    """Call ``changed`` from a thread whenever code below the folder changes, for the length of a ``with`` block.

    Raises:
        MissingExtraError: the library that watches files is not installed.
    """
    try:
        import watchfiles
    except ModuleNotFoundError:
        raise MissingExtraError(
            'Reloading needs the package "watchfiles"; install it with: pip install "messenger-bus[reload]", '
            'or: uv add "messenger-bus[reload]"'
        ) from None
    enough = threading.Event()

    def watch() -> None:
        logger.info("Watching %s for changes of the code", folder)
        only_code = watchfiles.PythonFilter(extra_extensions=_ALSO)
        for changes in watchfiles.watch(folder, watch_filter=only_code, stop_event=enough, raise_interrupt=False):
            logger.info("The code has changed: %s", ", ".join(sorted({path for _, path in changes})))
            changed()

    thread = threading.Thread(target=watch, name="bus-reload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
