"""What a message costs that goes through the in-memory transport: really serialized, stored, claimed and handled."""

from __future__ import annotations

from dataclasses import dataclass

import bus
from bench.rounds import Cost, alternate, cost_of, report, table

ROUNDS = 7
MESSAGES = 5_000

handled = 0


@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    quantity: int


@bus.handler
def count(event: OrderPlaced) -> None:
    global handled  # noqa: PLW0603 - the least that a handler can do and still prove that it ran
    handled += 1


def send_and_consume(batch: int) -> Cost:
    config = bus.MessengerConfig(
        transports={"async": bus.TransportConfig(dsn="in-memory://")}, routing={"*": ("async",)}
    )
    with bus.Messenger(config) as messenger:

        def work() -> None:
            if batch == 1:
                for number in range(MESSAGES):
                    messenger.bus.dispatch(OrderPlaced(f"o-{number}", 1))
            else:
                for first in range(0, MESSAGES, batch):
                    messenger.bus.dispatch_many(OrderPlaced(f"o-{first + at}", 1) for at in range(batch))
            messenger.worker(["async"], bus.WorkerOptions(stop_when_empty=True)).run()

        before = handled
        cost = cost_of(work, MESSAGES)
    if handled - before != MESSAGES:
        raise SystemExit(f"{handled - before} of {MESSAGES} messages were handled; these figures mean nothing.")
    return cost


def main() -> None:
    contestants = {
        "dispatch, one by one": lambda: send_and_consume(batch=1),
        "dispatch_many, 100 each": lambda: send_and_consume(batch=100),
    }
    figures = alternate(contestants, ROUNDS)
    rows = [[name, f"{each.wall:.1f}", each.spread] for name, each in figures.items()]
    text = (
        f"{MESSAGES:,} messages are dispatched to `in-memory://` and handled by one worker in the same process, "
        f"encoding and decoding included. Median of {ROUNDS} alternating rounds.\n\n"
        + table(["", "µs per message", "spread"], rows)
    )
    report("memory", "In-memory transport, there and back", text, [])


if __name__ == "__main__":
    main()
