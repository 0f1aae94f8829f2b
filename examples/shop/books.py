"""The books of the shop: JSON-lines files that only grow, so that anybody can count what was done, and how often."""

import json
import os
from collections.abc import Iterator
from pathlib import Path


def folder() -> Path:
    """Return where the books are kept: ``$SHOP_BOOKS``, or ``var/shop``."""
    path = Path(os.environ.get("SHOP_BOOKS", "var/shop"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def append(book: str, order_id: str, **entry: object) -> None:
    """Write one entry. A single append, so that entries of several processes do not mix."""
    line = json.dumps({"order_id": order_id, **entry}) + "\n"
    with (folder() / f"{book}.jsonl").open("ab", buffering=0) as file:
        file.write(line.encode())


def entries(book: str) -> Iterator[dict[str, object]]:
    """Read a book from its beginning."""
    path = folder() / f"{book}.jsonl"
    if path.exists():
        with path.open() as file:
            yield from map(json.loads, file)
