"""How fast one worker empties a SQLite queue: the bus, huey, and sqlite3 by hand with the guarantees of the bus.

By hand means: claim, commit, decode, handle, delete, commit; a message that was claimed and not deleted would come
back. huey deletes a task when it takes it, so a crash loses what was being handled; its figure stands here as the
nearest library with a SQLite queue, not as one that keeps the same promise.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import huey

import bus
from bench.rounds import Cost, Figure, alternate, cost_of, report, table

ROUNDS = 5
MANY = 20_000
FEW = 3_000  # for those that commit once or twice per message

handled = 0


@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    quantity: int


@bus.handler
def count(event: OrderPlaced) -> None:
    global handled  # noqa: PLW0603 - the least that a handler can do and still prove that it ran
    handled += 1


def messenger_on(file: Path) -> bus.Messenger:
    config = bus.MessengerConfig(
        transports={"async": bus.TransportConfig(dsn=f"sqlite:///{file}")}, routing={"*": ("async",)}
    )
    return bus.Messenger(config)


def filled(folder: Path, messages: int) -> Path:
    """Return a database into which the bus has dispatched messages."""
    file = folder / "bus.db"
    with messenger_on(file) as messenger:
        for first in range(0, messages, 500):
            messenger.bus.dispatch_many(OrderPlaced(f"o-{first + at}", 1) for at in range(500))
    return file


def bus_worker(folder: Path) -> Cost:
    file = filled(folder, MANY)
    with messenger_on(file) as messenger:
        worker = messenger.worker(["async"], bus.WorkerOptions(stop_when_empty=True))
        return cost_of(worker.run, MANY)


def by_hand(batch: int, messages: int) -> Callable[[Path], Cost]:
    """Read the very table that the bus writes, ``batch`` messages per claim and per delete."""

    def contestant(folder: Path) -> Cost:
        connection = sqlite3.connect(filled(folder, messages), isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

        def work() -> None:
            while claimed := connection.execute(CLAIM, {"limit": batch}).fetchall():
                for _, body in claimed:
                    count(OrderPlaced(**json.loads(body)))
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(DELETE, [(row,) for row, _ in claimed])
                connection.execute("COMMIT")

        cost = cost_of(work, messages)
        connection.close()
        return cost

    return contestant


CLAIM = """
    UPDATE messenger_messages SET delivered_at = CURRENT_TIMESTAMP, claim_token = 'by hand'
    WHERE id IN (
        SELECT id FROM messenger_messages
        WHERE queue_name = 'default' AND lane = 0 AND claim_token IS NULL
        ORDER BY available_at, id LIMIT :limit
    )
    RETURNING id, body
"""
DELETE = "DELETE FROM messenger_messages WHERE id = ? AND claim_token = 'by hand'"


def huey_loop(folder: Path) -> Cost:
    queue = huey.SqliteHuey(filename=str(folder / "huey.db"), fsync=True, results=False)

    @queue.task()
    def place(order_id: str, quantity: int) -> None:
        count(OrderPlaced(order_id, quantity))

    for number in range(FEW):
        place(f"o-{number}", 1)

    def work() -> None:
        while (task := queue.dequeue()) is not None:
            queue.execute(task)

    cost = cost_of(work, FEW)
    queue.storage.close()
    return cost


def proven(consume: Callable[[Path], Cost], messages: int) -> Callable[[], Cost]:
    """Give a contestant a folder of its own and make sure that it handled every message."""

    def contestant() -> Cost:
        before = handled
        with tempfile.TemporaryDirectory() as folder:
            cost = consume(Path(folder))
        if handled - before != messages:
            raise SystemExit(f"{handled - before} of {messages} messages were handled; these figures mean nothing.")
        return cost

    return contestant


def main() -> None:
    logging.getLogger("huey").setLevel(logging.ERROR)
    figures = alternate(
        {
            "bus, one worker": proven(bus_worker, MANY),
            "by hand, in hundreds": proven(by_hand(100, MANY), MANY),
            "by hand, one by one": proven(by_hand(1, FEW), FEW),
            "huey, one by one (deletes before it handles)": proven(huey_loop, FEW),
        },
        ROUNDS,
    )
    ours = figures["bus, one worker"]
    rows = [row(name, each, ours) for name, each in figures.items()]
    added = ours.cpu - figures["by hand, in hundreds"].cpu
    text = (
        "One process takes messages from a SQLite file (WAL, synchronous FULL) and handles them with a handler that "
        f"only counts. Median of {ROUNDS} alternating rounds.\n\n"
        + table(["", "messages/s", "µs per message", "spread", "µs of processor", "speed of the bus"], rows)
        + f"\n\nThe bus adds {added:.1f} µs of processor time per message to the loop by hand in hundreds."
    )
    report("sqlite", "Consume from SQLite", text, ["huey", "SQLAlchemy"])


def row(name: str, figure: Figure, ours: Figure) -> list[str]:
    return [
        name,
        f"{figure.per_second:,.0f}",
        f"{figure.wall:.1f}",
        figure.spread,
        f"{figure.cpu:.1f}",
        f"{figure.wall / ours.wall:.2f}x",
    ]


if __name__ == "__main__":
    main()
