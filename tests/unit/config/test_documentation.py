from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bus.config.grammar import MESSENGER
from bus.config.keys import Keys, ListOf, MapOf, Spec

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
ONLY_IN_OLDER_FILES = {"senders"}


def keys_in(spec: Spec) -> Iterator[str]:
    if isinstance(spec, Keys):
        for key, each in spec.keys.items():
            yield key
            yield from keys_in(each)
    elif isinstance(spec, MapOf | ListOf):
        yield from keys_in(spec.item)


def test_every_key_is_explained_in_the_documentation() -> None:
    words = set(re.findall(r"\w+", PAGE.read_text()))

    assert set(keys_in(MESSENGER)) - words - ONLY_IN_OLDER_FILES == set()
