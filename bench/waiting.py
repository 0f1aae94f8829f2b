"""Whether a SQLite queue gets slower as it gets longer: a worker in front of 1,000 to 1,000,000 waiting messages."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.orders import messenger_on, send
from bench.plot import lines
from bench.report import Run, table
from bench.rounds import Cost, alternate, cost_of, pin_to_one_processor

CLAIMED = 100


def main() -> None:
    run = Run.from_command_line("waiting", "Whether a SQLite queue gets slower as it gets longer.")
    rounds, consumed = run.size(5, 1), run.size(1_000, 200)
    lengths = (300, 600) if run.quick else (1_000, 10_000, 100_000, 1_000_000)
    pinned = pin_to_one_processor()
    contestants: dict[str, Callable[[], Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            dsn = f"sqlite:///{Path(folder) / f'{length}.db'}"
            with messenger_on(dsn) as messenger:
                send(messenger, length)
            contestants[f"claim {length}"] = claim(dsn)
            contestants[f"consume {length}"] = consume(dsn, consumed)
        figures = alternate(contestants, rounds)
    claims = [figures[f"claim {length}"] for length in lengths]
    consumes = [figures[f"consume {length}"] for length in lengths]
    rows = [
        [f"{length:,}", f"{one.wall:.1f}", one.spread, f"{each.wall:.1f}", each.spread]
        for length, one, each in zip(lengths, claims, consumes, strict=True)
    ]
    lines(
        run.plot,
        {
            f"claim, {CLAIMED} at once": [(x, y.wall) for x, y in zip(lengths, claims, strict=True)],
            "consume": [(x, y.wall) for x, y in zip(lengths, consumes, strict=True)],
        },
        ("waiting messages", "µs per message"),
        logarithmic=True,
    )
    text = (
        f"So many messages wait in a SQLite queue. Claimed: {CLAIMED} of them, in one step, which are given back "
        f"afterwards. Consumed: {consumed:,} of them, by a new worker, its start included; as many are sent "
        f"afterwards. Median of {rounds} alternating rounds. {pinned}\n\n"
        + table(["waiting", "µs to claim one", "spread", "µs to consume one", "spread"], rows)
    )
    run.report("A long SQLite queue", text, ["SQLAlchemy"])


def claim(dsn: str) -> Callable[[], Cost]:
    """Claim messages from a transport that is connected already."""

    def contestant() -> Cost:
        with messenger_on(dsn) as messenger:
            transport = messenger.transport("async")
            transport.get(1)
            cost = cost_of(lambda: transport.get(CLAIMED), CLAIMED)
            transport.close()  # gives everything back
        return cost

    return contestant


def consume(dsn: str, messages: int) -> Callable[[], Cost]:
    def contestant() -> Cost:
        with messenger_on(dsn) as messenger:
            worker = messenger.worker(["async"])
            worker.allow(messages)
            cost = cost_of(worker.run, messages)
            send(messenger, messages)
        return cost

    return contestant


if __name__ == "__main__":
    main()
