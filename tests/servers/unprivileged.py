"""Servers that refuse to run as root run as another user, where the tests are root's."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from pathlib import Path


def user_of(*names: str) -> str | None:
    """Return the first of these users that exists, or None where the tests are not root's: no other user is needed."""
    if os.getuid() != 0:
        return None
    existing = {each.pw_name for each in pwd.getpwall()}
    return next(name for name in (*names, "nobody") if name in existing)


def command_as(user: str | None, command: Sequence[str]) -> list[str]:
    """Return a command that becomes the other one, run by that user, within the same process."""
    if user is None:
        return list(command)
    group = str(pwd.getpwnam(user).pw_gid)
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--", *command]


def give(folder: Path, user: str | None) -> None:
    """Make a folder the user's."""
    if user is not None:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
