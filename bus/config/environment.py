"""The environment of a configuration: variables, ``.env`` files, its name, and the folder of the project.

The files and their order are Symfony's: ``.env`` (or ``.env.dist``), ``.env.local`` (not in the environment ``test``),
``.env.NAME``, ``.env.NAME.local``. A later file wins over an earlier one, and a real variable over all of them. So is
their form; blanks around ``=`` and in values are allowed besides, because Python projects have them. Commands are not
run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bus.errors import ConfigurationError

DEFAULT_NAME = "dev"
EMBEDDED_DATABASE = "sqlite:///var/bus.db"

_LARGEST_FILE = 1024 * 1024
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNMENT = re.compile(rf"(?:export[ \t]+)?({_NAME})[ \t]*=[ \t]*")
_REFERENCE = re.compile(rf"(\\)?\$(?:\{{({_NAME})(?::?-([^}}]*))?\}}|({_NAME}))")
_UNQUOTED = re.compile(r"(?:\\[\"']|[^\n\"'])*")
_COMMENT = re.compile(r"(?:^|[ \t])#")
_BLANK = re.compile(r"(?:\s+|#[^\n]*)*")
_SINGLE = re.compile(r"'([^'\n]*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPES = {"\\n": "\n", "\\r": "\r", '\\"': '"', "\\\\": "\\"}


@dataclass(frozen=True, slots=True, repr=False)
class Environment:
    """Variables by name, the name of the environment (``APP_ENV``), and the folder of the project."""

    variables: Mapping[str, str]
    name: str
    project: Path


def read_environment(project: Path, real: Mapping[str, str]) -> Environment:
    """Read the ``.env`` files of a project under the real variables.

    Raises:
        ConfigurationError: a file cannot be read or understood; its values are never shown.
    """
    values: dict[str, str] = {}

    def add(name: str) -> bool:
        file = project / name
        if not file.is_file():
            return False
        values.update(_parse(_text_of(file), str(file), {**values, **real}))
        return True

    def app_env() -> str:
        return real.get("APP_ENV", values.get("APP_ENV", DEFAULT_NAME)) or DEFAULT_NAME

    if not add(".env"):
        add(".env.dist")
    if app_env() != "test":
        add(".env.local")
    if app_env() != "local":
        name = app_env()
        add(f".env.{name}")
        add(f".env.{name}.local")
    return Environment({**values, **real}, app_env(), project)


def default_connection(variables: Mapping[str, str]) -> str:
    """Return the database meant by ``default`` where none is configured: ``$DATABASE_URL``, else an embedded file."""
    return variables.get("DATABASE_URL") or EMBEDDED_DATABASE


def _text_of(file: Path) -> str:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise ConfigurationError(f"{file}: the file is larger than 1 MiB")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: the file is not UTF-8") from None


def _parse(text: str, file: str, known: Mapping[str, str]) -> dict[str, str]:
    """Return the assignments of a ``.env`` file; ``known`` are the variables that its values may refer to."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    values: dict[str, str] = {}
    position = _skip(text, 0)
    while position < len(text):
        line = text.count("\n", 0, position) + 1
        match = _ASSIGNMENT.match(text, position)
        if not match:
            raise ConfigurationError(f"{file}:{line}: expected NAME=value")
        name = match[1]
        try:
            values[name], position = _value(text, match.end(), {**known, **values})
        except ValueError as error:
            raise ConfigurationError(f'{file}:{line}: the value of "{name}" {error}') from None
        position = _skip(text, position)
    return values


def _skip(text: str, position: int) -> int:
    """Return the position behind blank lines and comments."""
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _value(text: str, position: int, known: Mapping[str, str]) -> tuple[str, int]:
    """Return the value at a position, up to the end of its line, and the position behind it."""
    parts: list[str] = []
    while position < len(text) and text[position] != "\n":
        quote = text[position]
        if quote in "\"'":
            match = (_SINGLE if quote == "'" else _DOUBLE).match(text, position)
            if not match:
                raise ValueError("has a quote that is not closed")
            parts.append(match[1] if quote == "'" else _expand(_unescape(match[1]), known))
            position = match.end()
            continue
        match = _UNQUOTED.match(text, position)
        raw = match[0] if match else ""
        position += len(raw)
        written, *comment = _COMMENT.split(raw, maxsplit=1)
        written = written.rstrip()
        parts.append(_expand(re.sub(r"\\([\"'])", r"\1", written), known))
        if comment:
            newline = text.find("\n", position)
            return "".join(parts), len(text) if newline < 0 else newline
    return "".join(parts), position


def _unescape(text: str) -> str:
    return re.sub(r'\\[nr"\\]', lambda match: _ESCAPES[match[0]], text)


def _expand(text: str, known: Mapping[str, str]) -> str:
    """Replace ``$NAME``, ``${NAME}`` and ``${NAME:-default}``, unless escaped."""
    if re.search(r"(?<!\\)\$\(", text):
        raise ValueError("runs a command, $(...), which is not done here; put a $ that is meant in single quotes")

    def replaced(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        return known.get(match[2] or match[4]) or match[3] or ""

    return _REFERENCE.sub(replaced, text).replace("\\$", "$")
