"""Claims without a clock: who lives holds a file lock, and what the dead held is free.

Each owner (a driver, a store) has a token, and a file named by it in a folder beside the database, locked as long as
its process lives. The operating system lets the lock go when the process dies, however it dies; nothing has to be
renewed meanwhile.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from bus.errors import AccessDeniedError, ConnectionLostError

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".lock"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PATIENCE = 5.0  # seconds; a living process looks into a new lock file for a moment, to see whether it is a dead one's


def folder_of(database: Path) -> Path:
    """Return the folder of the locks that keep claims in a database file alive."""
    return Path(f"{os.path.realpath(database)}-claims")


class ClaimLocks:
    """The locks of one folder, seen from one owner.

    ``token`` belongs to the thread that claims; the rest may be called from any thread. After a fork the child calls
    ``forget``: the parent's lock is then neither kept nor released by it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: FileLock | None = None
        self._token: str | None = None

    @property
    def held_token(self) -> str | None:
        """The token whose lock this process holds now, if any."""
        return self._token

    def token(self) -> str:
        """Return this owner's token, and take its lock the first time, or when somebody has removed the lock's file.

        Raises:
            AccessDeniedError: this user may not write there.
            ConnectionLostError: the lock cannot be taken.
        """
        if self._own is None or self._token is None:
            token = secrets.token_hex(16)
            self._own, self._token = self._taken(token), token
        elif not Path(self._own.lock_file).exists():
            # Others take us for dead, and would for each claim to come: a lock on a file without a name protects none.
            logger.warning(
                'The lock file "%s" was removed while it was held; what was claimed under it may be handled twice',
                self._own.lock_file,
            )
            removed, self._own = self._own, self._taken(self._token)
            removed.release()
        return self._token

    def release(self) -> None:
        """Let this owner's lock go; what its token still holds is free from now on. Idempotent."""
        lock, self._own, self._token = self._own, None, None
        if lock is not None:
            self._remove(lock)

    def forget(self) -> None:
        """Drop the lock of the parent process without touching it. Called in a forked child."""
        # filelock closes the inherited descriptor, so that the parent's death frees the lock although we live.
        self._own = self._token = None

    def tokens(self) -> set[str]:
        """Return the other tokens that have a file here: those of the living, and of the dead not yet cleaned up."""
        with suppress(FileNotFoundError):
            names = [path.name for path in self._folder.iterdir() if path.name.endswith(_SUFFIX)]
            return {name.removesuffix(_SUFFIX) for name in names} - {self._token or ""}
        return set()

    @contextmanager
    def dead(self, token: str) -> Iterator[bool]:
        """Tell whether the owner of a token is gone, and remove its file if the block ends well.

        While the block runs, nobody else finds this token dead.
        """
        if not _TOKEN.fullmatch(token):
            yield True  # none of ours, so nobody can hold a lock for it; and it must not become a path
            return
        lock = self._lock(token)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        except OSError as error:
            logger.warning('The file lock "%s" cannot be looked into: %s', lock.lock_file, error)
            yield False
            return
        try:
            yield True
        except BaseException:
            lock.release()
            raise
        self._remove(lock)

    def _taken(self, token: str) -> FileLock:
        lock = self._lock(token)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE)
        except (OSError, Timeout) as error:
            kind = AccessDeniedError if isinstance(error, PermissionError) else ConnectionLostError
            raise kind(
                f'The file lock "{lock.lock_file}", which keeps claims alive, cannot be taken: {error}'
            ) from error
        return lock

    def _lock(self, token: str) -> FileLock:
        # A file system without locks is an error: the library's substitute would outlive a killed process.
        return FileLock(self._folder / f"{token}{_SUFFIX}", thread_local=False, fallback_to_soft=False)

    def _remove(self, lock: FileLock) -> None:
        # Removed while it is locked: who has opened the file meanwhile gets a lock on a file without a name, which the
        # library notices, and takes for held.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
