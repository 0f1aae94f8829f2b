"""The reference of the configuration, and the page that it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bus.config.grammar import ARGUMENTS, MESSENGER
from bus.config.keys import Keys, ListOf, MapOf, Spec
from bus.config.reference import options_table, reference
from bus.transports.registry import schemes

PAGE = Path(__file__).parents[3] / "docs" / "configuration-reference.md"


def keys_in(spec: Spec) -> Iterator[str]:
    if isinstance(spec, Keys):
        for key, each in spec.keys.items():
            yield key
            yield from keys_in(each)
    elif isinstance(spec, MapOf | ListOf):
        yield from keys_in(spec.item)


def test_the_page_in_the_documentation_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "write it anew: python -m bus config reference > docs/configuration-reference.md"
    )


def test_every_key_has_a_line_with_its_meaning() -> None:
    lines = re.findall(r"^\| `(\w+)` \| .+ \| .* \| (.+) \|$", reference(), re.MULTILINE)
    every = {*keys_in(MESSENGER), *(key for each in ARGUMENTS.values() for key in keys_in(each))}

    assert every - {key for key, _ in lines} == set()


def test_every_scheme_has_its_options_on_the_page() -> None:
    described = re.findall(r"`([\w+-]+)://`", "".join(re.findall(r"^### .*", reference(), re.MULTILINE)))

    assert set(schemes()) - set(described) == set()


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.+)$", reference(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", reference())) - anchors == set()


@dataclass(frozen=True)
class Exchange:
    name: str = "messages"


@dataclass(frozen=True)
class Options:
    """Options of a transport.

    Attributes:
        name: whose name it is,
            told at length.
        level: how much ``*`` is done.
        window: milliseconds.
        exchange: with a ``name``.
        queues: queues by name.
    """

    name: str
    level: float = 0.5
    window: int | None = None
    exchange: Exchange = field(default_factory=Exchange)
    queues: Mapping[str, Exchange] | None = None


def test_options_are_described_by_their_dataclass() -> None:
    assert options_table("### x://", Options) == (
        "### x://\n"
        "\n"
        "| Option | Value | Default | Meaning |\n"
        "| --- | --- | --- | --- |\n"
        "| `name` | text | required | Whose name it is, told at length. |\n"
        "| `level` | number | `0.5` | How much `\\*` is done. |\n"
        "| `window` | whole number |  | Milliseconds. |\n"
        "| `exchange` | map |  | With a `name`. |\n"
        "| `queues` | map |  | Queues by name. |\n"
    )


def test_an_option_without_a_line_in_the_docstring_is_an_error() -> None:
    @dataclass(frozen=True)
    class Silent:
        """Options.

        Attributes:
            told: something.
        """

        told: int = 0
        untold: int = 0

    with pytest.raises(TypeError, match="'untold'"):
        options_table("### x://", Silent)
