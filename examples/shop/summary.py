"""Counts the books against the orders: ``python -m examples.shop.summary``."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from examples.shop import books

ORDERS = Path(__file__).parent / "orders.jsonl"


def orders() -> Iterator[str]:
    """Yield the id of every line that is an order; the file also holds a torn line and an event of another kind."""
    for line in ORDERS.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["type"] == "order.placed":
            yield entry["body"]["order_id"]


def main() -> int:
    """Print for each book how many orders are in it, missing, or in it twice; return 1 unless all are there once."""
    wanted = Counter(orders())
    print(f"{len(wanted):,} orders in {ORDERS.name}")
    complete = True
    for book in ("reservations", "payments", "receipts"):
        found = Counter(str(entry["order_id"]) for entry in books.entries(book))
        missing = len(wanted.keys() - found.keys())
        repeated = sum(count > 1 for count in found.values())
        complete = complete and found == wanted
        print(f"  {book:<13}{len(found):>6,} orders   {missing:>3} missing   {repeated} twice")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
