"""What a message costs that goes through the in-memory transport: really serialized, stored, claimed and handled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bus
from bench.orders import OrderPlaced, messenger_on, proven, send
from bench.plot import bars
from bench.report import Run, table
from bench.rounds import Cost, alternate, cost_of


def there_and_back(messages: int, fill: Callable[[bus.Messenger, int], None]) -> Callable[[], Cost]:
    def work(folder: Path) -> Cost:
        with messenger_on("in-memory://") as messenger:

            def send_and_consume() -> None:
                fill(messenger, messages)
                messenger.worker(["async"], bus.WorkerOptions(stop_when_empty=True)).run()

            return cost_of(send_and_consume, messages)

    return proven(work, messages)


def one_by_one(messenger: bus.Messenger, messages: int) -> None:
    for number in range(messages):
        messenger.bus.dispatch(OrderPlaced(f"o-{number}", 1))


def main() -> None:
    run = Run.from_command_line("memory", "What a message costs that goes through the in-memory transport.")
    rounds, messages = run.size(7, 1), run.size(5_000, 100)
    figures = alternate(
        {
            "dispatch, one by one": there_and_back(messages, one_by_one),
            "dispatch_many, 500 each": there_and_back(messages, send),
        },
        rounds,
    )
    bars(run.plot, {name: each.wall for name, each in figures.items()}, "µs per message", list(figures))
    rows = [[name, f"{each.wall:.1f}", each.spread] for name, each in figures.items()]
    text = (
        f"{messages:,} messages are dispatched to `in-memory://` and handled by one worker in the same process, "
        f"encoding and decoding included. Median of {rounds} alternating rounds.\n\n"
        + table(["", "µs per message", "spread"], rows)
    )
    run.report("In-memory transport, there and back", text)


if __name__ == "__main__":
    main()
