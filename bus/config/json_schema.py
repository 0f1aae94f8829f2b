"""The JSON Schema (draft-07) of the configuration, for editors; made of the grammar.

``messenger.schema.json`` beside this file is what ``json_schema()`` returns; a test keeps it so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bus.config.grammar import MESSENGER, PARAMETERS
from bus.config.keys import Decimal, Duration, Flag, Free, Keys, ListOf, MapOf, Spec, Text, Whole
from bus.config.rate_limiters import RATE_LIMITERS

SHIPPED = Path(__file__).with_name("messenger.schema.json")

_PLACEHOLDER: dict[str, Any] = {
    "type": "string",
    "pattern": r"%[^%\s]+%|\$\{.*\}",
    "description": "A placeholder: %env(NAME)%, %parameter% or ${NAME:-default}.",
}
# What may stand for a map: PHP writes an empty one as a list.
_OTHERWISE: list[dict[str, Any]] = [
    {"type": "array", "maxItems": 0},
    {"type": "null"},
    {"$ref": "#/definitions/placeholder"},
]
_DURATION = r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"


def json_schema() -> dict[str, Any]:
    """Return the schema of a whole file."""
    when = {"type": ["object", "null"], "properties": _sections(), "additionalProperties": True}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of the message bus",
        "description": "messenger.yaml: the configuration of Symfony Messenger, and keys of this bus.",
        "type": "object",
        "properties": _sections(),
        "patternProperties": {"^when@": when, "^x-": {}},
        # Beside "framework" there may stand other bundles; without it, the file is ours alone.
        "if": {"not": {"required": ["framework"]}},
        "then": {"propertyNames": {"pattern": "^(messenger|parameters|when@.+|x-.*)$"}},
        "definitions": {"messenger": _schema(MESSENGER), "placeholder": _PLACEHOLDER},
    }


def rendered() -> str:
    """Return the schema as the text that is shipped."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _sections() -> dict[str, Any]:
    messenger = {"$ref": "#/definitions/messenger"}
    # Symfony's own: what stands there may be meant for other parts of the application.
    limiters = {"description": RATE_LIMITERS.doc}
    framework = {"type": ["object", "null"], "properties": {"messenger": messenger, "rate_limiter": limiters}}
    return {"framework": framework, "messenger": messenger, "parameters": _schema(PARAMETERS)}


def _schema(spec: Spec) -> dict[str, Any]:
    described = _kind(spec)
    if spec.doc:
        described = {"description": spec.doc, **described}
    default = getattr(spec, "default", None)
    return described if default is None else {**described, "default": default}


def _kind(spec: Spec) -> dict[str, Any]:
    match spec:
        case Keys():
            return _keys(spec)
        case MapOf():
            return {"anyOf": [_map(spec), *_OTHERWISE]}
        case ListOf():
            return _list(spec)
        case Free(collection=collection):
            return {"type": ["array", "object", "null"]} if collection else {}
        case Text(choices=choices, or_null=or_null):
            if choices:
                return _or_placeholder({"enum": list(choices)})
            return {"type": ["string", "null"] if or_null else "string"}
        case Whole(minimum=minimum):
            return _or_placeholder(_without_none({"type": "integer", "minimum": minimum}))
        case Decimal(minimum=minimum, maximum=maximum):
            return _or_placeholder(_without_none({"type": "number", "minimum": minimum, "maximum": maximum}))
        case Flag():
            return _or_placeholder({"type": "boolean"})
        case Duration():
            return _or_placeholder({"type": "string", "pattern": _DURATION})
    raise TypeError(f"no schema for {spec}")


def _keys(spec: Keys) -> dict[str, Any]:
    written = {
        "type": "object",
        "properties": {key: _schema(each) for key, each in spec.keys.items()},
        "additionalProperties": False,
    }
    forms = spec.short.forms if spec.short else ()
    takes_list = any(isinstance(form, ListOf) for form in forms)
    return {"anyOf": [written, *map(_schema, forms), *(_OTHERWISE[1:] if takes_list else _OTHERWISE)]}


def _map(spec: MapOf) -> dict[str, Any]:
    return _without_none(
        {
            "type": "object",
            "properties": {key: _schema(each) for key, each in (spec.known or {}).items()} or None,
            "additionalProperties": _schema(spec.item),
            "maxProperties": spec.at_most,
        }
    )


def _list(spec: ListOf) -> dict[str, Any]:
    item = _schema(spec.item)
    written = _without_none({"type": "array", "items": item, "minItems": spec.at_least or None})
    forms = [written, *([item] if spec.or_one else []), *([] if spec.at_least else [{"type": "null"}])]
    return {"anyOf": [*forms, {"$ref": "#/definitions/placeholder"}]}


def _or_placeholder(written: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [written, {"$ref": "#/definitions/placeholder"}]}


def _without_none(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if value is not None}
