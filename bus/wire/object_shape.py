"""Where the objects stand inside a JSON value, so that keys can be renamed and PHP's empty objects recognised.

PHP writes an empty object, and an empty map, as ``[]``. A shape says where a type wants an object; walking a value
along its shape turns such a ``[]`` into ``{}`` and renames keys. What has neither has no shape (None).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

Rename = Literal["camel"] | None

_LISTS = (list, tuple)  # msgspec leaves a tuple as it is


class NoJsonFormError(TypeError):
    """Objects of a class have no JSON form; the text says why, and what to do."""


@dataclass(slots=True, eq=False)
class Fields:
    """An object with known keys: JSON key -> (key afterwards, shape of the value). Others are dropped unless kept."""

    keys: dict[str, tuple[str, Shape]] = field(default_factory=dict)
    keeps_others: bool = False
    tag: tuple[str, str | int] | None = None


@dataclass(slots=True, eq=False)
class Values:
    """An object with free keys."""

    value: Shape


@dataclass(slots=True, eq=False)
class Items:
    """A list."""

    item: Shape


@dataclass(slots=True, eq=False)
class Positions:
    """A list whose places mean different things."""

    items: tuple[Shape, ...]


@dataclass(slots=True, eq=False)
class Choice:
    """One of several shapes."""

    options: tuple[Shape, ...]


Shape = Fields | Values | Items | Positions | Choice | None


def walk(value: Any, shape: Shape) -> Any:
    """Return the value with renamed keys, and with ``{}`` for each ``[]`` that stands for an object."""
    if isinstance(shape, Choice):
        shape = _chosen(value, shape)
    if isinstance(shape, Fields):
        return _walk_fields(value, shape)
    if isinstance(shape, Values):
        if type(value) is dict:
            return {key: walk(each, shape.value) for key, each in value.items()}
        return {} if value == [] else value
    if isinstance(shape, Items) and type(value) in _LISTS and shape.item is not None:
        return [walk(each, shape.item) for each in value]
    if isinstance(shape, Positions) and type(value) in _LISTS:
        inner = shape.items + (None,) * (len(value) - len(shape.items))
        return [walk(each, inner[position]) for position, each in enumerate(value)]
    return value


def _walk_fields(value: Any, shape: Fields) -> Any:
    if type(value) is not dict:
        return {} if value == [] else value
    walked = {}
    for key, each in value.items():
        known = shape.keys.get(key)
        if known is not None:
            name, inner = known
            walked[name] = each if inner is None else walk(each, inner)
        elif shape.keeps_others:
            if any(key == name for name, _ in shape.keys.values()):
                raise msgspec.ValidationError("Object contains unknown field")
            walked[key] = each
    return walked


def _chosen(value: Any, choice: Choice) -> Shape:
    if type(value) in _LISTS:
        lists = [each for each in choice.options if isinstance(each, Items | Positions)]
        if lists or value:
            return lists[0] if lists else None
    elif type(value) is not dict:
        return None
    objects = [each for each in choice.options if isinstance(each, Fields | Values)]
    for each in objects:
        if isinstance(each, Fields) and each.tag is not None and value and value.get(each.tag[0]) == each.tag[1]:
            return each
    return objects[0] if objects else None


class ShapeBuilder:
    """Reads the annotations of a class into shapes.

    ``writing`` maps the keys of a class's fields to those on the wire, otherwise back. ``may_hold_nan`` tells, once a
    shape is built, whether a float can stand anywhere in it.
    """

    def __init__(self, rename: Rename, *, writing: bool) -> None:
        self._rename = rename
        self._writing = writing
        self._known: dict[object, Fields] = {}
        self.may_hold_nan = False

    def of(self, cls: type) -> Shape:
        """Return the shape of a class.

        Raises:
            NoJsonFormError: an annotation is of a kind that JSON cannot carry, or cannot be resolved.
        """
        if is_pydantic(cls):
            return self._pydantic(cls)
        try:
            return self._build(msgspec.inspect.type_info(cls), cls.__name__)
        except NoJsonFormError:
            raise
        except (TypeError, NameError) as error:
            raise NoJsonFormError(f"its annotations cannot be used: {error}") from error

    def _build(self, info: msgspec.inspect.Type, path: str) -> Shape:
        kinds = msgspec.inspect
        if isinstance(info, kinds.FloatType | kinds.AnyType):
            self.may_hold_nan = True
        if isinstance(info, kinds.StructType | kinds.DataclassType | kinds.TypedDictType):
            return self._fields(info, path)
        if isinstance(info, kinds.NamedTupleType):
            return _unless_empty(Positions, [self._build(each.type, f"{path}.{each.name}") for each in info.fields])
        if isinstance(info, kinds.DictType):
            return Values(self._build(info.value_type, f"{path}[...]"))
        if isinstance(info, kinds.ListType | kinds.SetType | kinds.FrozenSetType | kinds.VarTupleType):
            # Kept without a shape inside too: in a choice it tells that ``[]`` is a list.
            return Items(self._build(info.item_type, f"{path}[...]"))
        if isinstance(info, kinds.TupleType):
            return _unless_empty(Positions, [self._build(each, f"{path}[...]") for each in info.item_types])
        if isinstance(info, kinds.UnionType):
            return _unless_empty(Choice, [self._build(each, path) for each in info.types])
        if isinstance(info, kinds.CustomType):
            return self._custom(info.cls, path)
        return None

    def _custom(self, cls: type, path: str) -> Shape:
        self.may_hold_nan = True
        if cls is object:
            return None
        if is_pydantic(cls):
            return self._pydantic(cls)
        raise NoJsonFormError(
            f'"{path}" is annotated with "{cls.__qualname__}", which has no JSON form: '
            "make it a dataclass, msgspec Struct, attrs class or pydantic model"
        )

    def _fields(self, info: Any, path: str) -> Shape:
        if getattr(info, "array_like", False):
            return _unless_empty(Positions, [self._build(each.type, f"{path}.{each.name}") for each in info.fields])
        if info.cls in self._known:
            return self._known[info.cls]
        shape = self._known[info.cls] = Fields(keeps_others=getattr(info, "forbid_unknown_fields", False))
        tag_field = getattr(info, "tag_field", None)
        if tag_field is not None:
            shape.tag = (tag_field, info.tag)
            shape.keys[tag_field] = (tag_field, None)
        for each in info.fields:
            wire = self._wire_key(each.name, each.encode_name)
            self._add(shape, wire, each.encode_name, self._build(each.type, f"{path}.{each.name}"), path)
        return shape

    def _pydantic(self, cls: Any) -> Shape:
        if cls in self._known:
            return self._known[cls]
        self.may_hold_nan = True
        config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}
        shape = self._known[cls] = Fields(keeps_others=config.get("extra") in ("allow", "forbid"))
        for name, info in cls.__pydantic_fields__.items():
            alias = (info.serialization_alias if self._writing else info.validation_alias) or name
            if not isinstance(alias, str):  # a path or a choice of aliases: pydantic finds the value by itself
                shape.keeps_others = True
                continue
            try:
                inner = self._build(msgspec.inspect.type_info(info.annotation), name)
            except TypeError:  # pydantic knows more types than msgspec, and none of those holds an object
                inner = None
            self._add(shape, self._wire_key(name, alias), alias, inner, cls.__name__)
        return shape

    def _wire_key(self, name: str, encode_name: str) -> str:
        return camel(name) if self._rename == "camel" and encode_name == name else encode_name

    def _add(self, shape: Fields, wire: str, key: str, inner: Shape, path: str) -> None:
        source, target = (key, wire) if self._writing else (wire, key)
        if any(target == taken for taken, _ in shape.keys.values()) or source in shape.keys:
            raise NoJsonFormError(f'two fields of "{path}" have the JSON key "{wire}"')
        shape.keys[source] = (target, inner)


def camel(name: str) -> str:
    """Return a snake_case name in camelCase. Underscores at either end stay."""
    return re.sub(r"(?<=[^_])_+([^_])", lambda match: match[1].upper(), name)


def is_pydantic(cls: type) -> bool:
    """Tell whether a class is a pydantic model or pydantic dataclass, without importing pydantic."""
    return hasattr(cls, "__pydantic_validator__")


def _unless_empty(kind: Callable[[tuple[Shape, ...]], Shape], shapes: Sequence[Shape]) -> Shape:
    return kind(tuple(shapes)) if any(each is not None for each in shapes) else None
