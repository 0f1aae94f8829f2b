"""Where the configuration file is, which project it belongs to, and its bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bus.errors import ConfigurationError

PATHS = ("messenger.yaml", "config/messenger.yaml", "config/packages/messenger.yaml")
LARGEST_FILE = 1024 * 1024


def searched_paths() -> tuple[Path, ...]:
    """Return where a configuration is looked for when none is named, in this order."""
    return tuple(Path(path) for path in PATHS)


def find(path: str | Path | None = None, *, environment: Mapping[str, str] | None = None) -> Path | None:
    """Return the configuration file: the given one, else ``$BUS_CONFIG``, else the first of ``searched_paths``.

    Raises:
        ConfigurationError: a file was named and does not exist.
    """
    variables = os.environ if environment is None else environment
    named, by = (path, "") if path is not None else (variables.get("BUS_CONFIG") or None, " ($BUS_CONFIG)")
    if named is None:
        return next((each for each in searched_paths() if each.is_file()), None)
    if not Path(named).is_file():
        raise ConfigurationError(f'there is no configuration file "{named}"{by}')
    return Path(named)


def project_of(file: Path) -> Path:
    """Return the folder of the project that a configuration file belongs to: above ``config`` and its ``packages``."""
    folder = file.resolve().parent
    if folder.name == "packages" and folder.parent.name == "config":
        folder = folder.parent
    return folder.parent if folder.name == "config" else folder


def read_bytes(file: Path) -> bytes:
    """Return the content of a file, and no more of a large one than shows that it is too large."""
    try:
        with file.open("rb") as stream:
            return stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigurationError(f'the file "{file}" cannot be read: {error.strerror}') from None


def displayed(file: Path) -> str:
    """Return the name of a file for messages: below the working directory without that."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(file)
