"""What a configuration file says, with the position of every part, and the report of what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import TypeAlias

from bus.errors import ConfigurationError, did_you_mean, quoted

DEEPEST_VALUE = 50  # levels of nesting; deeper is no configuration, and would exhaust the stack

# Bounds on what a message holds and costs, however large the file is.
MOST_PROBLEMS = 100
_MOST_COMPARED = 200
_MOST_LISTED = 20

Mark: TypeAlias = tuple[int, int]  # line and column, both from 1


class Unknown(Enum):
    """Stands for a value that nobody can tell: its variable is not set, or is only set in another environment."""

    VALUE = "unknown"


Scalar: TypeAlias = bool | int | float | str | None
NodeValue: TypeAlias = "Scalar | Unknown | list[Node] | dict[str, Node]"


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the file.

    Attributes:
        value: what it says; a list or map holds nodes.
        mark: where it stands.
        key_mark: where its key stands, for the value of a map.
        problems: what cannot be read as it is written. Kept here and not raised, because it may stand in a part of the
            file that is somebody else's.
        variables: environment variables that went into the value: it is never shown then.
        untyped: a text that may be meant as a number, because its notation (``${NAME}``) cannot say so.
    """

    value: NodeValue
    mark: Mark
    key_mark: Mark | None = None
    problems: tuple[tuple[Mark, str], ...] = ()
    variables: tuple[str, ...] = ()
    untyped: bool = False

    @property
    def start(self) -> Mark:
        """Where the entry begins: at its key, if it has one."""
        return self.key_mark or self.mark


def native(node: Node) -> object:
    """Return the value without positions; what is unknown is left out."""
    if isinstance(node.value, list):
        return [native(each) for each in node.value if each.value is not Unknown.VALUE]
    if isinstance(node.value, dict):
        return {key: native(each) for key, each in node.value.items() if each.value is not Unknown.VALUE}
    return node.value


# Only what looks like a name is ever repeated in a message: a DSN, or a piece of one, may hold a password.
_NAME = re.compile(r"(@|!{1,2})?(?!.*//)[\w.\\*+/ -]{1,120}(:[\w.]{1,120})?")


def is_name(text: str) -> bool:
    """Tell whether a text looks like the name of something."""
    return _NAME.fullmatch(text) is not None


def shown(text: str) -> str:
    """Return a text of the user's for a message: in quotes if it looks like a name, else only its length."""
    return f'"{text}"' if is_name(text) else f"a text of {len(text)} characters"


def origin(variables: Iterable[str]) -> str:
    """Return ``the value of "NAME"`` for what came from variables, or an empty string."""
    names = " and ".join(shown(name) for name in variables)
    return f"the value of {names}" if names else ""


def suggestion(name: str, valid: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the nearest valid name that may be shown, or an empty string."""
    return did_you_mean(name, islice(filter(is_name, valid), _MOST_COMPARED)) if is_name(name) else ""


def listed(names: Iterable[str]) -> str:
    """Return names for a message, as many as one reads."""
    first = list(islice(filter(is_name, names), _MOST_LISTED + 1))
    return quoted(first[:_MOST_LISTED]) + (" and others" if len(first) > _MOST_LISTED else "")


def below(path: str, key: str | int) -> str:
    """Return the path of an entry under a path."""
    part = str(key) if is_name(str(key)) else f"(a key of {len(str(key))} characters)"
    return f"{path}.{part}" if path else part


class Report:
    """Everything found wrong or noteworthy in one file, and where each path of it stands."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.locations: dict[str, str] = {}
        self._marks: dict[str, Mark] = {}
        self._variables: dict[str, tuple[str, ...]] = {}
        self._unusable: set[str] = set()
        self._problems: list[tuple[Mark, str]] = []
        self._notes: list[tuple[Mark, str]] = []

    def place(self, path: str, node: Node) -> None:
        """Remember where a path stands, and which variables its value came from."""
        self._marks[path] = node.start
        self._variables[path] = node.variables
        if path:
            self.locations[path] = self._at(node.start)

    def value_at(self, path: str, text: str) -> str:
        """Return the text that stands at a path for a message: never what a variable gave."""
        return origin(self._variables.get(path, ())) or shown(text)

    def error(self, path: str, what: str, mark: Mark | None = None) -> None:
        """Add a problem, at ``mark`` or where the path, or the nearest path above it, stands."""
        self._problems.append(self._line(path, what, mark))

    def unusable(self, path: str, what: str, mark: Mark) -> None:
        """Add a problem that leaves nothing of what stands at a path."""
        self._unusable.add(path)
        self.error(path, what, mark)

    def missing(self, path: str, key: str, what: str) -> None:
        """Add a problem with a key that the map at a path needs, unless it has it or is unusable as a whole."""
        if below(path, key) not in self._marks and path not in self._unusable:
            self.error(below(path, key), what)

    def note(self, path: str, what: str, mark: Mark | None = None) -> None:
        """Add a note, placed as a problem is."""
        self._notes.append(self._line(path, what, mark))

    def take_problems(self, other: Report) -> None:
        """Add the problems of another report on the same file, and not its notes."""
        self._problems.extend(other._problems)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes, in the order of the file."""
        return _in_order(self._notes)

    @property
    def has_problems(self) -> bool:
        """Whether a problem was reported."""
        return bool(self._problems)

    def raise_problems(self) -> None:
        """Raise a ConfigurationError with every problem, in the order of the file, if there is one."""
        lines = _in_order(self._problems)
        if len(lines) > MOST_PROBLEMS:
            lines = (*lines[:MOST_PROBLEMS], f"{self.source}: and more problems")
        if lines:
            raise ConfigurationError(*lines)

    def _line(self, path: str, what: str, mark: Mark | None) -> tuple[Mark, str]:
        mark = mark or self._nearest(path)
        return mark, f"{self._at(mark)} {path}: {what}" if path else f"{self._at(mark)}: {what}"

    def _nearest(self, path: str) -> Mark:
        while path and path not in self._marks:
            path = path.rpartition(".")[0]
        return self._marks.get(path, (1, 1))

    def _at(self, mark: Mark) -> str:
        return f"{self.source}:{mark[0]}:{mark[1]}"


def _in_order(lines: Iterable[tuple[Mark, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for _, text in sorted(lines)))
