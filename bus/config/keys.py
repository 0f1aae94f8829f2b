"""The words in which the grammar of the configuration is written: what a value may be.

One description drives the validation, the merging of ``when@ENV``, the JSON Schema and the reference in the docs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bus.config.nodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What every kind of value has.

    Attributes:
        doc: one sentence for editors and the reference.
        note: for a key of Symfony's that is read and means nothing here. Given the value, it returns the sentence to
            show, or None where nothing is lost.
    """

    doc: str = ""
    note: Callable[[object], str | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Spec):
    """A text. ``choices`` are the only valid ones; ``or_null``: null means that the key is not set."""

    choices: tuple[str, ...] = ()
    or_null: bool = False
    default: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(Spec):
    """A whole number. ``unit`` is the unit that Symfony gives it."""

    minimum: int | None = None
    unit: str | None = None
    default: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decimal(Spec):
    """A number."""

    minimum: float | None = None
    maximum: float | None = None
    default: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag(Spec):
    """True or false."""

    default: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration(Spec):
    """A duration with its unit, such as ``24h``; read as that text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Free(Spec):
    """Anything; checked by whoever it is meant for. ``collection``: a list or a map."""

    collection: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf(Spec):
    """A list. ``or_one``: one item may stand for a list of one. ``appends``: what is merged over it is added."""

    item: Spec
    or_one: bool = False
    at_least: int = 0
    appends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOf(Spec):
    """A map whose keys are names that the user gives. ``known`` are names whose values are described."""

    item: Spec
    known: Mapping[str, Spec] | None = None
    at_most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Short:
    """A shorter way to write a map with fixed keys: any of ``forms``, which ``expand`` turns into the map."""

    forms: tuple[Spec, ...]
    expand: Callable[[Node], Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys(Spec):
    """A map with fixed keys.

    Attributes:
        keys: the valid keys.
        short: a shorter way to write it.
        replaces: what is merged over it takes its place as a whole.
        before_merge: what a map loses when another, given second, is merged over it.
        refine: the description to read a map by, where that depends on what stands in it.
    """

    keys: Mapping[str, Spec]
    short: Short | None = None
    replaces: bool = False
    before_merge: Callable[[Node, Node], Node] | None = None
    refine: Callable[[Node], Keys] | None = None


def canonical(node: Node, spec: Spec) -> Node:
    """Return a map where the file uses a shorter form of one, and anything else as it is.

    PHP writes an empty map as ``[]``, and null stands for one as well.
    """
    if isinstance(spec, Keys) and spec.short:
        node = spec.short.expand(node)
    if isinstance(spec, Keys | MapOf) and (node.value is None or node.value == []):
        return replace(node, value={})
    return node


def under(key: str, *, lists: bool = False) -> Callable[[Node], Node]:
    """Return the expansion that puts a single value, or with ``lists`` a list too, under one key."""

    def expand(node: Node) -> Node:
        if node.value is None or isinstance(node.value, dict) or (isinstance(node.value, list) and not lists):
            return node
        return Node({key: node}, node.mark, node.key_mark)

    return expand
