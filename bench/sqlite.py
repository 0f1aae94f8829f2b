"""How fast one worker empties a SQLite queue: the bus, huey, and sqlite3 by hand with the guarantees of the bus.

By hand means: claim, commit, decode, handle, delete, commit; a message that was claimed and not deleted would come
back. With idempotency a key is claimed and committed before each call of the handler, and noted as done, and
committed, after it. huey deletes a task when it takes it, so a crash loses what was being handled; its figure stands
here as the nearest library with a SQLite queue, not as one that keeps the same promise.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import huey

import bus
from bench.orders import OrderPlaced, count, messenger_on, proven, send
from bench.plot import bars
from bench.report import Run, table
from bench.rounds import Cost, Figure, alternate, cost_of, pin_to_one_processor

BUS = "bus"
BY_HAND = "by hand, in hundreds"
IDEMPOTENT = "bus, idempotency"
EXACTLY_ONCE = "bus, idempotency and transaction"
BY_HAND_IDEMPOTENT = "by hand, in hundreds, idempotency"

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
CREATE_KEYS = "CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, done INTEGER NOT NULL)"
CLAIM_KEY = "INSERT OR IGNORE INTO keys VALUES (?, 0)"
NOTE_DONE = "UPDATE keys SET done = 1 WHERE key = ? AND done = 0"


def filled(folder: Path, messages: int) -> Path:
    """Return a database into which the bus has dispatched messages."""
    file = folder / "bus.db"
    with messenger_on(f"sqlite:///{file}") as messenger:
        send(messenger, messages)
    return file


def bus_worker(messages: int, *middleware: str) -> Callable[[], Cost]:
    def consume(folder: Path) -> Cost:
        with messenger_on(f"sqlite:///{filled(folder, messages)}", middleware) as messenger:
            worker = messenger.worker(["async"], bus.WorkerOptions(stop_when_empty=True))
            return cost_of(worker.run, messages)

    return proven(consume, messages)


def by_hand(messages: int, batch: int, *, idempotent: bool = False) -> Callable[[], Cost]:
    """Read the very table that the bus writes, ``batch`` messages per claim and per delete."""

    def consume(folder: Path) -> Cost:
        connection = sqlite3.connect(filled(folder, messages), isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(CREATE_KEYS)
        call = once_per_key if idempotent else call_handler

        def work() -> None:
            while claimed := connection.execute(CLAIM, {"limit": batch}).fetchall():
                for row, body in claimed:
                    call(connection, row, body)
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(DELETE, [(row,) for row, _ in claimed])
                connection.execute("COMMIT")

        cost = cost_of(work, messages)
        connection.close()
        return cost

    return proven(consume, messages)


def call_handler(connection: sqlite3.Connection, row: int, body: str) -> None:
    count(OrderPlaced(**json.loads(body)))


def once_per_key(connection: sqlite3.Connection, row: int, body: str) -> None:
    key = f"{row}:count"
    if connection.execute(CLAIM_KEY, (key,)).rowcount:
        call_handler(connection, row, body)
        connection.execute(NOTE_DONE, (key,))


def huey_loop(messages: int) -> Callable[[], Cost]:
    def consume(folder: Path) -> Cost:
        queue = huey.SqliteHuey(filename=str(folder / "huey.db"), fsync=True, results=False)

        @queue.task()
        def place(order_id: str, quantity: int) -> None:
            count(OrderPlaced(order_id, quantity))

        for number in range(messages):
            place(f"o-{number}", 1)

        def work() -> None:
            while (task := queue.dequeue()) is not None:
                queue.execute(task)

        cost = cost_of(work, messages)
        queue.storage.close()
        return cost

    return proven(consume, messages)


def main() -> None:
    run = Run.from_command_line("sqlite", "How fast one worker empties a SQLite queue.")
    logging.getLogger("huey").setLevel(logging.ERROR)
    rounds = run.size(5, 1)
    many, few = run.size(20_000, 300), run.size(3_000, 60)  # few for those that commit once or twice per message
    pinned = pin_to_one_processor()
    figures = alternate(
        {
            BUS: bus_worker(many),
            BY_HAND: by_hand(many, 100),
            "by hand, one by one": by_hand(few, 1),
            "huey, one by one (deletes before it handles)": huey_loop(few),
            IDEMPOTENT: bus_worker(few, "idempotency"),
            EXACTLY_ONCE: bus_worker(few, "idempotency", "transaction"),
            BY_HAND_IDEMPOTENT: by_hand(few, 100, idempotent=True),
        },
        rounds,
    )
    bars(
        run.plot,
        {name: each.per_second for name, each in figures.items()},
        "messages/s",
        [BUS, IDEMPOTENT, EXACTLY_ONCE],
    )
    text = (
        "One process takes messages from a SQLite file (WAL, synchronous FULL) and handles them with a handler that "
        f"only counts. Median of {rounds} alternating rounds. {pinned}\n\n"
        + table(
            ["", "messages/s", "µs per message", "spread", "µs of processor", "speed of the bus"],
            [row(name, each, figures[BUS]) for name, each in figures.items()],
        )
        + f"\n\nThe bus adds {figures[BUS].added_cpu(figures[BY_HAND]):.1f} µs of processor time (user and system) per "
        "message to the loop by hand in hundreds; with idempotency, which is made of commits on both sides, "
        f"{figures[IDEMPOTENT].added_cpu(figures[BY_HAND_IDEMPOTENT]):.1f} µs to the loop with idempotency."
    )
    run.report("Consume from SQLite", text, ["huey", "SQLAlchemy"])


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
