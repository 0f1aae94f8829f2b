"""Merges the section of an environment over the general one, as Symfony merges them.

Maps are merged key by key; lists are added where Symfony adds them (signals) and replaced where it replaces them (the
senders of a message, the middleware of a bus); everything else is replaced. What a section does not set stays unset:
defaults come after merging.
"""

from __future__ import annotations

from dataclasses import replace

from bus.config.keys import Free, Keys, ListOf, MapOf, Spec, canonical
from bus.config.nodes import Node


def merge(before: Node, after: Node, spec: Spec) -> Node:
    """Return ``after`` merged over ``before``; each part keeps the position at which it was written."""
    before, after = canonical(before, spec), canonical(after, spec)
    if isinstance(spec, ListOf) and spec.appends:
        return replace(after, value=[*_items(before), *_items(after)])
    if isinstance(spec, Keys) and spec.before_merge:
        before = spec.before_merge(before, after)
    mergeable = isinstance(spec, MapOf) or (isinstance(spec, Keys) and not spec.replaces)
    if not mergeable or not isinstance(before.value, dict) or not isinstance(after.value, dict):
        return after
    merged = dict(before.value)
    for key, node in after.value.items():
        merged[key] = merge(merged[key], node, _spec_of(key, spec)) if key in merged else node
    return replace(before, value=merged)


def _items(node: Node) -> list[Node]:
    if isinstance(node.value, list):
        return node.value
    return [] if node.value is None else [node]


def _spec_of(key: str, spec: Spec) -> Spec:
    if isinstance(spec, Keys):
        return spec.keys.get(key, _ANYTHING)
    return spec.item if isinstance(spec, MapOf) else _ANYTHING


_ANYTHING = Free()
