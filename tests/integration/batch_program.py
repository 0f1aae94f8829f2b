"""A worker process with a batch handler: ``batch_program.py FOLDER``. Batches are noted in the folder's ledger.

While a message of the other handler runs, nothing is idle: it ends when the folder's file ``go`` is there.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from bus.config.schema import MessengerConfig, TransportConfig
from bus.handlers import handler
from bus.messages import message
from bus.messenger import Messenger
from bus.worker import WorkerOptions


@message("test.batch.row")
@dataclass(frozen=True)
class Row:
    number: int


@message("test.batch.busy")
@dataclass(frozen=True)
class Busy:
    pass


def messenger(folder: Path) -> Messenger:
    def note(line: str) -> None:
        with (folder / "ledger").open("a") as ledger:
            ledger.write(f"{line}\n")

    @handler(batch_size=50, batch_wait="1h")
    def in_batches(rows: list[Row]) -> None:
        note(" ".join(str(row.number) for row in rows))

    def wait(busy: Busy) -> None:
        note("busy")
        while not (folder / "go").exists():
            threading.Event().wait(0.01)

    config = MessengerConfig(
        transports={"queue": TransportConfig(dsn=f"sqlite:///{folder}/queue.db")},
        routing={"test.batch.row": ("queue",), "test.batch.busy": ("queue",)},
        store="memory://",
    )
    return Messenger(config, handlers=[in_batches, wait])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with messenger(folder) as bus:
        bus.consume(["queue"], WorkerOptions(concurrency=2, stop_when_empty=(folder / "go").exists()))
