"""Replaces ``%env(...)%``, ``%parameter%``, ``%%`` and ``${NAME:-default}`` in the values of a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bus.config.environment import Environment
from bus.config.nodes import DEEPEST_VALUE, Mark, Node, NodeValue, Report, Unknown, below, native, shown, suggestion
from bus.config.processors import NotSetError, UnresolvedError, process

_PLACEHOLDER = re.compile(r"%%|%(?P<name>[^%\s]+)%|\$\$\{|\$\{")
_ALONE = re.compile(r"%(?P<name>[^%\s]+)%")
_ENV = re.compile(r"env\((.*)\)")
_DOLLAR = re.compile(r"(?a)(?P<name>[A-Za-z_]\w*)(?P<fallback>:-.*)?", re.DOTALL)
_BRACE = re.compile(r"\$\{|\}")
_DEEPEST = 10  # how far placeholders may lead to each other


def has_placeholder(text: str) -> bool:
    """Tell whether a text holds something that is replaced."""
    return bool(_PLACEHOLDER.search(text))


def without_placeholders(node: Node) -> Node:
    """Return a tree in which everything that would be replaced is unknown: for environments that are not this one."""
    if isinstance(node.value, str):
        return replace(node, value=Unknown.VALUE) if has_placeholder(node.value) else node
    if isinstance(node.value, list):
        return replace(node, value=[without_placeholders(each) for each in node.value])
    if isinstance(node.value, dict):
        return replace(node, value={key: without_placeholders(each) for key, each in node.value.items()})
    return node


class Placeholders:
    """Replaces placeholders, with the variables of an environment and the parameters of a file."""

    def __init__(self, environment: Environment, parameters: Mapping[str, Node], report: Report) -> None:
        self._environment = environment
        self._parameters = parameters
        self._report = report
        self._resolved: dict[str, Node] = {}
        self._under_way: list[str] = []  # what is being looked up, against circles
        self._used: list[str] = []  # variables that went into the value at hand

    @property
    def project(self) -> Path:
        """The folder that relative paths of ``%env(file:...)%`` start from."""
        return self._environment.project

    def replaced(self, node: Node, path: str) -> Node:
        """Return a tree with every placeholder replaced. What cannot be replaced is reported, and unknown."""
        if isinstance(node.value, str):
            try:
                return self._text(node)
            except UnresolvedError as error:
                self._report.error(path, str(error), node.mark)
                return replace(node, value=Unknown.VALUE)
        if isinstance(node.value, list):
            items = [self.replaced(each, below(path, index)) for index, each in enumerate(node.value)]
            return replace(node, value=items)
        if isinstance(node.value, dict):
            return replace(node, value={key: self.replaced(each, below(path, key)) for key, each in node.value.items()})
        return node

    def variable(self, name: str) -> str:
        """Return a variable, or its default under ``parameters: env(NAME)``."""
        self._used.append(name)
        value = self._environment.variables.get(name)
        if value is not None:
            return value
        if f"env({name})" in self._parameters:
            default = self.parameter(f"env({name})")
            return "" if default is None else str(default)
        raise NotSetError(f"the environment variable {shown(name)} is not set")

    def parameter(self, name: str) -> object:
        """Return the plain value of a parameter."""
        return native(self._parameter(name))

    def resolve(self, text: str) -> str:
        """Return a text with its placeholders replaced, in one pass: what a variable gives is not looked at again."""
        parts: list[str] = []
        position = 0
        while match := _PLACEHOLDER.search(text, position):
            parts.append(text[position : match.start()])
            position = match.end()
            if match["name"]:
                parts.append(self._embedded(match["name"]))
            elif match[0] == "${":
                position = _closing_brace(text, position) + 1
                parts.append(self._dollar(text[match.end() : position - 1]))
            else:
                parts.append(match[0][1:])
        return "".join(parts) + text[position:]

    def _text(self, node: Node) -> Node:
        """Return the node of a text. A placeholder that stands alone keeps the type of what it stands for."""
        text = str(node.value)
        if not has_placeholder(text):
            return node
        outer, self._used = self._used, []
        try:
            alone = _ALONE.fullmatch(text)
            if alone:
                found = self._lookup(alone["name"], node.mark)
                return replace(found, mark=node.mark, key_mark=node.key_mark)
            untyped = text.startswith("${") and _closing_brace(text, 2) == len(text) - 1
            return replace(node, value=self.resolve(text), variables=self._names(), untyped=untyped)
        finally:
            self._used = outer + self._used

    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._used))

    def _embedded(self, name: str) -> str:
        value = self._lookup(name, (1, 1)).value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UnresolvedError(f"{shown(name)} stands inside a text and must be a text or a number")
        return str(value)

    def _lookup(self, name: str, mark: Mark) -> Node:
        """Return what ``%name%`` stands for; ``mark`` is where it is used."""
        env = _ENV.fullmatch(name)
        if not env:
            return self._parameter(name)
        # Not under its bare name: the parameter of that name is the variable's default.
        with self._looking_up(f"%{name}%"):
            value = process(env[1], self)
        return _grown(value, mark, self._names())

    def _parameter(self, name: str) -> Node:
        if name not in self._parameters:
            what = f"there is no parameter {shown(name)}{suggestion(name, self._parameters)}"
            raise UnresolvedError(f'{what}; a "%" that is meant as such is written "%%"')
        if name not in self._resolved:
            with self._looking_up(name):
                self._resolved[name] = self._tree(self._parameters[name])
        self._used.extend(self._resolved[name].variables)
        return self._resolved[name]

    def _tree(self, node: Node) -> Node:
        """Return a parameter's tree replaced; what goes wrong in it is reported where the parameter is used."""
        if isinstance(node.value, str):
            return self._text(node)
        if isinstance(node.value, list):
            return replace(node, value=[self._tree(each) for each in node.value])
        if isinstance(node.value, dict):
            return replace(node, value={key: self._tree(each) for key, each in node.value.items()})
        return node

    def _dollar(self, inner: str) -> str:
        """Return the value of what stands inside ``${...}``: an empty variable counts as one that is not set."""
        match = _DOLLAR.fullmatch(inner)
        if not match:
            raise UnresolvedError("expected ${NAME} or ${NAME:-default}")
        if match["fallback"] is None:
            return self.variable(match["name"])
        try:
            value = self.variable(match["name"])
        except NotSetError:
            value = ""
        if value:
            return value
        with self._looking_up(match["name"]):
            return self.resolve(match["fallback"][2:])

    @contextmanager
    def _looking_up(self, name: str) -> Iterator[None]:
        if name in self._under_way:
            circle = " -> ".join(shown(each) for each in [*self._under_way[self._under_way.index(name) :], name])
            raise UnresolvedError(f"a placeholder leads back to itself: {circle}")
        if len(self._under_way) == _DEEPEST:
            raise UnresolvedError(f"placeholders lead to each other more than {_DEEPEST} times")
        self._under_way.append(name)
        try:
            yield
        finally:
            self._under_way.pop()


def _closing_brace(text: str, position: int) -> int:
    """Return the position of the brace that closes a ``${`` whose content starts at ``position``."""
    depth = 1
    for match in _BRACE.finditer(text, position):
        depth += 1 if match[0] == "${" else -1
        if depth == 0:
            return match.start()
    raise UnresolvedError('"${" is not closed by "}"; a "${" that is meant as such is written "$${"')


def _grown(value: object, mark: Mark, variables: tuple[str, ...], depth: int = 0) -> Node:
    """Return the nodes of a value that a variable gave."""
    if depth > DEEPEST_VALUE:
        raise UnresolvedError(f"the value of {shown(variables[-1])} is nested deeper than {DEEPEST_VALUE} levels")
    grown: NodeValue
    if isinstance(value, list):
        grown = [_grown(each, mark, variables, depth + 1) for each in value]
    elif isinstance(value, dict):
        grown = {str(key): _grown(each, mark, variables, depth + 1) for key, each in value.items()}
    elif value is None or isinstance(value, bool | int | float):
        grown = value
    else:
        grown = str(value)
    return Node(grown, mark, variables=variables)
