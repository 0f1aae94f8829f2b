"""Whether a worker's memory grows: 200,000 messages through one worker, some of which fail and are tried again."""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bus
from bench.orders import BATCH
from bench.plot import lines
from bench.report import Run, table
from bus.events import MessageSettled
from bus.limits import resident_memory

FAILING = 100  # one message in so many fails once
WARM_UP = 0.2  # of the samples, which do not count

handled = 0
failed: set[str] = set()


@bus.message("parcel.sent")  # in the process that fills, this module has another name
@dataclass(frozen=True)
class ParcelSent:
    parcel_id: str
    address: tuple[str, ...]
    fails_once: bool


@bus.handler
def deliver(event: ParcelSent) -> None:
    global handled  # noqa: PLW0603 - proves that every message was handled
    if event.fails_once and event.parcel_id not in failed:
        failed.add(event.parcel_id)
        raise ConnectionError("nobody is at home")
    failed.discard(event.parcel_id)
    handled += 1


def messenger_on(file: Path) -> bus.Messenger:
    transport = bus.TransportConfig(dsn=f"sqlite:///{file}", retry=bus.RetryPolicy(delay=0))
    return bus.Messenger(
        bus.MessengerConfig(imports=("bench.soak",), transports={"async": transport}, routing={"*": ("async",)})
    )


def fill(file: Path, messages: int) -> None:
    with messenger_on(file) as messenger:
        for first in range(0, messages, BATCH):
            messenger.bus.dispatch_many(
                ParcelSent(f"p-{number}", (f"{number} High Street", "Anytown"), fails_once=number % FAILING == 0)
                for number in range(first, min(first + BATCH, messages))
            )


def consume(file: Path, every: int) -> tuple[list[tuple[float, float]], float]:
    """Handle everything; return samples (messages settled so far, bytes in memory) and the seconds that it took."""
    samples: list[tuple[float, float]] = []
    settled = 0

    def sample(event: MessageSettled) -> None:
        nonlocal settled
        settled += 1
        if settled % every == 0:
            samples.append((settled, resident_memory()))

    with messenger_on(file) as messenger:
        worker = messenger.worker(["async"], bus.WorkerOptions(stop_when_empty=True))
        worker.events.on(MessageSettled, sample)
        began = time.perf_counter()
        worker.run()
        return samples, time.perf_counter() - began


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the bytes that 1,000 messages add, by least squares."""
    return statistics.linear_regression(*zip(*samples, strict=True)).slope * 1000


def main() -> None:
    run = Run.from_command_line("soak", "Whether a worker's memory grows.")
    messages = run.size(200_000, 2_000)
    logging.getLogger("bus").setLevel(logging.ERROR)  # each retry is a warning
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bus.db"
        # In a process of its own: memory that filling has used and let go would hide what consuming takes.
        filling = multiprocessing.get_context("spawn").Process(target=fill, args=(file, messages))
        filling.start()
        filling.join()
        samples, seconds = consume(file, every=messages // 400)
    if handled != messages:
        raise SystemExit(f"{handled} of {messages} messages were handled; these figures mean nothing.")
    counted = samples[int(len(samples) * WARM_UP) :]
    lines(run.plot, {"resident memory": [(at, size / 2**20) for at, size in samples]}, ("messages settled", "MiB"))
    figures = [
        ["messages per second", f"{messages / seconds:,.0f}"],
        ["MiB at the first sample", f"{samples[0][1] / 2**20:.1f}"],
        ["MiB after the warm-up", f"{counted[0][1] / 2**20:.1f}"],
        ["MiB at the end", f"{samples[-1][1] / 2**20:.1f}"],
        ["growth after the warm-up, bytes per 1,000 messages", f"{slope(counted):,.0f}"],
    ]
    text = (
        f"One worker takes {messages:,} messages from a SQLite file, one in {FAILING} of which fails once and is tried "
        f"again. Its resident memory is read {len(samples)} times; the growth is the slope of a line through the "
        f"samples (least squares), without the first {WARM_UP:.0%} of them.\n\n" + table(["", ""], figures)
    )
    run.report("Memory of a worker", text, ["SQLAlchemy"])


if __name__ == "__main__":
    main()
