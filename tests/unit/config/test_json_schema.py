from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bus.config.json_schema import SHIPPED, json_schema, rendered

FOLDER = Path(__file__).parent / "symfony"
EXAMPLES = [*sorted(FOLDER.glob("*.yaml")), Path(__file__).parents[3] / "config" / "messenger.yaml"]

Problems = Callable[..., list[str]]


class Tolerant(yaml.SafeLoader):
    """Reads the tags of PHP as texts, as an editor does."""


Tolerant.add_multi_constructor("!", lambda _loader, tag, _node: tag)


@pytest.fixture(scope="module")
def valid() -> Callable[[Any], bool]:
    validator = jsonschema.Draft7Validator(json_schema())
    return lambda document: not list(validator.iter_errors(document))


def test_the_schema_is_a_draft_07_schema() -> None:
    jsonschema.Draft7Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_the_shipped_schema_is_current() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == rendered(), (
        "write it anew: python -c 'from bus.config.json_schema import *; SHIPPED.write_text(rendered())'"
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_accepts_the_examples(example: Path, valid: Callable[[Any], bool]) -> None:
    assert valid(yaml.load(example.read_text(), Loader=Tolerant))


@pytest.mark.parametrize(
    "messenger",
    [
        "5",
        "{transprots: {}}",
        "{imports: {a: b}}",
        "{transports: {a: [b]}}",
        "{transports: {a: 5}}",
        "{transports: {a: {dsn: 'sync://', optoins: {}}}}",
        "{transports: {a: {dsn: 'sync://', options: [b]}}}",
        "{transports: {a: {dsn: 'sync://', max_deliveries: 0}}}",
        "{transports: {a: {dsn: 'sync://', retry_strategy: {jitter: 3}}}}",
        "{transports: {a: {dsn: 'sync://', retry_strategy: {delay: -1}}}}",
        "{transports: {a: {dsn: 'sync://', retry_strategy: {delay: '1s'}}}}",
        "{transports: {a: {dsn: 'sync://', retry_strategy: {multiplier: 0.5}}}}",
        "{transports: {a: 'sync://'}, routing: {App: []}}",
        "{transports: {a: 'sync://'}, routing: {App: {sender: a}}}",
        "{buses: {a: {middleware: {b: [], c: []}}}}",
        "{buses: {a: {middleware: [{b: c}]}}}",
        "{buses: {a: {middleware: [{idempotency: {ttl: 24}}]}}}",
        "{buses: {a: {middleware: [{idempotency: {ttl: '24'}}]}}}",
        "{buses: {a: {default_middleware: allow_no_handler}}}",
        "{buses: {a: {default_middleware: {enabled: 1}}}}",
        "{serializer: {symfony_serializer: {format: xml}}}",
        "{connections: {default: 5}}",
        "{store: 5}",
    ],
)
@pytest.mark.parametrize(
    "root", ["messenger: %s", "framework: {messenger: %s}", "messenger: {}\nwhen@x: {messenger: %s}"]
)
def test_what_the_schema_refuses_the_loader_refuses_too(
    messenger: str, root: str, valid: Callable[[Any], bool], problems: Problems
) -> None:
    text = root % messenger

    assert not valid(yaml.safe_load(text))
    assert problems(text)


@pytest.mark.parametrize("text", ["mesenger: {}", "messenger: {}\nservices: {}", "[]"])
def test_the_top_of_the_file_is_described_as_well(text: str, valid: Callable[[Any], bool], problems: Problems) -> None:
    assert not valid(yaml.safe_load(text))
    assert problems(text)


def test_every_key_is_explained_to_the_reader_in_an_editor() -> None:
    silent: list[str] = []

    def walk(schema: Any, path: str) -> None:
        if isinstance(schema, dict):
            for key, each in schema.get("properties", {}).items():
                if not {"description", "$ref"} & each.keys():
                    silent.append(f"{path}.{key}")
            for key, each in schema.items():
                walk(each, f"{path}.{key}")
        elif isinstance(schema, list):
            for each in schema:
                walk(each, path)

    walk(json_schema()["definitions"], "")

    assert silent == []


def test_defaults_stand_in_the_schema() -> None:
    text = json.dumps(json_schema())

    for default in (
        '"default": 3',
        '"default": 1000',
        '"default": 2.0',
        '"default": 0.1',
        '"default": "sql://default"',
    ):
        assert default in text
