"""Reads a configuration file with the position of every part. The only file that knows YAML.

Nothing is ever constructed from a tag. The events of the parser become nodes without recursion and within bounds on
size, depth and aliases, so that no file can exhaust this process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bus.config.environment import Environment, default_connection, read_environment
from bus.config.files import LARGEST_FILE, displayed, find, project_of, read_bytes, searched_paths
from bus.config.nodes import DEEPEST_VALUE, Mark, Node, Report, Unknown, shown
from bus.config.scalars import read_plain, read_tagged
from bus.config.schema import MessengerConfig
from bus.config.sections import interpret

__all__ = ["Loaded", "find", "load", "load_text", "load_with_notes", "searched_paths"]

_MOST_ALIASES = 100
_MOST_VALUES = 50_000  # what an alias repeats counts each time

# libyaml where PyYAML has it: ten times faster, the same events.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HINTS = {
    "\t": "indent with spaces, not with tabs",
    "%": "a text that begins with \"%\" needs quotes, as in '%env(NAME)%'",
    "@": 'a text that begins with "@" needs quotes',
    "`": 'a text that begins with "`" needs quotes',
}
_TAG = "tag:yaml.org,2002:"
_SCALARS = ("str", "int", "float", "bool", "null")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and notes on what in its file was left aside, one line each."""

    config: MessengerConfig
    notes: tuple[str, ...] = ()


def load(path: str | Path | None = None, *, environment: Mapping[str, str] | None = None) -> MessengerConfig:
    """Return the configuration; without a file, one whose ``source`` is None. See ``load_with_notes``."""
    return load_with_notes(path, environment=environment).config


def load_with_notes(path: str | Path | None = None, *, environment: Mapping[str, str] | None = None) -> Loaded:
    """Return the configuration that ``find`` finds, with its notes.

    ``environment`` stands for the real variables (default: those of this process). ``.env`` files add to them for this
    configuration; neither they nor the process are changed.

    Raises:
        ConfigurationError: one line per problem, with all that were found.
    """
    variables = os.environ if environment is None else environment
    file = find(path, environment=variables)
    if file is None:
        surroundings = read_environment(Path.cwd(), variables)
        return Loaded(MessengerConfig(connections={"default": default_connection(surroundings.variables)}))
    return load_text(read_bytes(file), displayed(file), read_environment(project_of(file), variables))


def load_text(text: bytes, source: str, environment: Environment) -> Loaded:
    """Return the configuration in these bytes; ``source`` is their name in messages.

    Raises:
        ConfigurationError: as ``load_with_notes``.
    """
    report = Report(source)
    try:
        document = _Composer().compose(_events(_decoded(text)))
    except _UnreadableError as error:
        report.error("", error.what, error.mark)
        report.raise_problems()
        raise
    return Loaded(interpret(document, environment, report), report.notes)


class _UnreadableError(Exception):
    """The file cannot be read from this mark on."""

    def __init__(self, what: str, mark: Mark = (1, 1)) -> None:
        super().__init__(what)
        self.what = what
        self.mark = mark


def _decoded(text: bytes) -> str:
    if len(text) > LARGEST_FILE:
        raise _UnreadableError("the file is larger than 1 MiB")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8")
        raise _UnreadableError("the file is not UTF-8", _end_of(before)) from None
    unprintable = _UNPRINTABLE.search(decoded)
    if unprintable:
        what = f"the character U+{ord(unprintable[0]):04X} is not allowed in YAML"
        raise _UnreadableError(what, _end_of(decoded[: unprintable.start()]))
    return decoded


def _end_of(text: str) -> Mark:
    return text.count("\n") + 1, len(text) - text.rfind("\n")


def _mark(event: Any) -> Mark:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        mark = (place.line + 1, place.column + 1) if place else (1, 1)
        raise _UnreadableError(f"this is not valid YAML: {_explained(error.problem or '', text, mark)}", mark) from None
    except yaml.YAMLError:
        raise _UnreadableError("this is not valid YAML") from None


def _explained(problem: str, text: str, mark: Mark) -> str:
    """Return what the parser says, in words that help where they are known, and without pieces of the text."""
    line = next(iter(text.split("\n")[mark[0] - 1 :]), "")
    character = line[mark[1] - 1 : mark[1]]
    if "cannot start any token" in problem and character in _HINTS:
        return _HINTS[character]
    if "escape" in problem:
        return "in double quotes a backslash begins an escape; use single quotes"
    if "mapping values are not allowed" in problem:
        return 'a ":" is not expected here; check the indentation, or put the text in quotes'
    return re.sub(r"""'[^']{2,}'|"[^"]{2,}\"""", "this", problem)


@dataclass(slots=True)
class _Open:
    """A list or map whose end has not come yet. The nodes of a map are its keys and values in turn."""

    mark: Mark
    anchor: str | None
    is_map: bool
    problem: str | None
    nodes: list[Node] = field(default_factory=list)
    size: int = 1

    @property
    def expects_key(self) -> bool:
        return self.is_map and len(self.nodes) % 2 == 0


class _Composer:
    """Makes nodes of the events of one document."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._aliases = 0
        self._values = 0
        self._root: Node | None = None

    def compose(self, events: Iterable[Any]) -> Node:
        documents = 0
        for event in events:
            match event:
                case yaml.ScalarEvent():
                    self._add(self._scalar(event), 1, event.anchor)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._begin(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    ended = self._open.pop()
                    self._add(_closed(ended), ended.size, ended.anchor)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise _UnreadableError(
                            'a second document begins here ("---"); one file is one document', _mark(event)
                        )
        return self._root or Node(None, (1, 1))

    def _add(self, node: Node, size: int, anchor: str | None = None) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if self._open:
            self._open[-1].nodes.append(node)
            self._open[-1].size += size
        else:
            self._root = node

    def _begin(self, event: Any) -> None:
        if len(self._open) >= DEEPEST_VALUE:
            raise _UnreadableError(f"nested deeper than {DEEPEST_VALUE} levels", _mark(event))
        mark = _mark(event)
        self._count(1, mark)
        problem = _problem_of_tag(event, ("map", "seq"))
        is_map = isinstance(event, yaml.MappingStartEvent)
        self._open.append(_Open(mark, event.anchor, is_map, problem))

    def _scalar(self, event: Any) -> Node:
        mark, text = _mark(event), event.value
        self._count(1, mark)
        plain = not event.style and event.tag is None
        is_key = bool(self._open) and self._open[-1].expects_key
        problem = _problem_of_tag(event, _SCALARS)
        if problem:
            return Node(Unknown.VALUE, mark, problems=((mark, problem),))
        kind = (event.tag or "").removeprefix(_TAG)
        if plain:
            value, problem = read_plain(text)
        else:
            value, problem = read_tagged(kind, text) if kind in _SCALARS else (text, None)
        if problem:
            return Node(text if is_key else Unknown.VALUE, mark, problems=((mark, problem),))
        return Node(text if is_key else value, mark)

    def _alias(self, event: Any) -> None:
        name, mark = event.anchor, _mark(event)
        self._aliases += 1
        if self._aliases > _MOST_ALIASES:
            raise _UnreadableError(f"more than {_MOST_ALIASES} aliases", mark)
        if any(each.anchor == name for each in self._open):
            raise _UnreadableError("an alias stands inside of what it repeats", mark)
        if name not in self._anchors:
            raise _UnreadableError("an alias has no anchor before it", mark)
        node, size = self._anchors[name]
        self._count(size, mark)
        self._add(node, size)

    def _count(self, values: int, mark: Mark) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            raise _UnreadableError(f"more than {_MOST_VALUES} values, those that aliases repeat included", mark)


def _problem_of_tag(event: Any, known: tuple[str, ...]) -> str | None:
    """Return why a tag cannot be followed, or None. One that would make an object of Python ends the reading."""
    tag = event.tag
    if tag is None or tag == "!" or (tag.startswith(_TAG) and tag.removeprefix(_TAG) in known):
        return None
    if tag.startswith(f"{_TAG}python"):
        raise _UnreadableError(
            'a tag "!!python/..." makes objects of Python, which a configuration never does', _mark(event)
        )
    if tag.startswith("!"):
        return f"the tag {shown(tag)} stands for something inside a PHP application; write the plain value"
    return f"the tag {shown(tag.replace(_TAG, '!!'))} is not used here; write the plain value"


def _closed(ended: _Open) -> Node:
    """Return the node of a list or map whose end has come."""
    if ended.problem:
        return Node(Unknown.VALUE, ended.mark, problems=((ended.mark, ended.problem),))
    if not ended.is_map:
        return Node(ended.nodes, ended.mark)
    entries: dict[str, Node] = {}
    problems: list[tuple[Mark, str]] = []
    merged: list[Node] = []
    for key, value in zip(ended.nodes[::2], ended.nodes[1::2], strict=True):
        problems.extend(key.problems)
        if not isinstance(key.value, str):
            problems.append((key.mark, "a key must be a text"))
        elif key.value == "<<":
            merged.extend(value.value if isinstance(value.value, list) else [value])
        else:
            if key.value in entries:
                line = entries[key.value].start[0]
                problems.append((key.mark, f"duplicate key {shown(key.value)}, first in line {line}"))
            entries[key.value] = replace(value, key_mark=key.mark)
    for node in merged:
        if not isinstance(node.value, dict):
            problems.append((node.mark, '"<<" takes a map, or a list of maps, to merge'))
            continue
        for name, value in node.value.items():
            entries.setdefault(name, value)
    return Node(entries, ended.mark, problems=tuple(problems))
