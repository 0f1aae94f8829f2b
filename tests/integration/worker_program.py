"""A worker process for the tests: ``worker_program.py FOLDER OPTIONS`` consumes until it is stopped.

Its handlers do what their message says and write what happens, line by line, into the ledger of the folder.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bus.config.schema import MessengerConfig, TransportConfig
from bus.errors import ConnectionLostError
from bus.events import WorkerIdle
from bus.limits import Limits
from bus.messages import message
from bus.messenger import Messenger
from bus.retry import RetryPolicy
from bus.testing.failpoints import arm_from_environment
from bus.worker import WorkerOptions


@message("test.task")
@dataclass(frozen=True)
class Task:
    name: str
    do: str = "nothing"


@message("test.async_task")
@dataclass(frozen=True)
class AsyncTask:
    name: str
    do: str = "nothing"


class HostileError(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)

    __repr__ = __str__


class Actions:
    """What a handler can do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = os.open(folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, line: str) -> None:
        os.write(self._fd, f"{line}\n".encode())

    def handle(self, task: Task) -> None:
        self.note(f"start {task.name}")
        getattr(self, task.do)()
        self.note(f"end {task.name}")

    async def handle_async(self, task: AsyncTask) -> None:
        self.note(f"start {task.name}")
        if task.do == "never":
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        getattr(self, task.do)()
        self.note(f"end {task.name}")

    def nothing(self) -> None: ...

    def wait(self) -> None:
        """Wait until a file called ``go`` appears."""
        while not (self._folder / "go").exists():
            time.sleep(0.005)

    def never(self) -> None:
        threading.Event().wait()

    def spin(self) -> None:
        while True:
            pass

    def block_in_sqlite(self) -> None:
        """Wait three seconds for a lock, inside one call of a C library."""
        path = self._folder / "locked.db"
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        try:
            sqlite3.connect(path, isolation_level=None, timeout=3.0).execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            holder.close()

    def exit(self) -> None:
        sys.exit(3)

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def generator_exit(self) -> None:
        raise GeneratorExit

    def hostile(self) -> None:
        raise HostileError

    def group(self) -> None:
        raise BaseExceptionGroup("many", [SystemExit(1), HostileError()])

    def fail(self) -> None:
        raise ValueError("no")

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def ignore_sigterm(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    def fork(self) -> None:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            self.note(f"child {os.waitstatus_to_exitcode(status)}")

    def fork_and_exit(self) -> None:
        if os.fork() == 0:
            sys.exit(7)
        _, status = os.wait()
        self.note(f"child {os.waitstatus_to_exitcode(status)}")


def messenger(folder: Path, retries: int = 0) -> Messenger:
    actions = Actions(folder)
    retry = RetryPolicy(max_retries=retries, delay=1, jitter=0)
    config = MessengerConfig(
        transports={
            "async": TransportConfig(dsn=f"sqlite:///{folder}/bus.db", retry=retry),
            "failed": TransportConfig(dsn=f"sqlite:///{folder}/bus.db?queue_name=failed"),
        },
        failure_transport="failed",
        routing={"test.*": ("async",)},
    )
    return Messenger(config, handlers=[actions.handle, actions.handle_async])


def main(folder: Path, retries: int = 0, limit: int | None = None, *, down: bool = False, **options: object) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    arm_from_environment()
    bus = messenger(folder, retries)
    note: Callable[[str], None] = Actions(folder).note
    bus.events.on(WorkerIdle, lambda event: note("idle"))
    if down:
        bus.transports["async"].driver.get = cannot_connect  # type: ignore[method-assign]
    bus.consume(["async"], WorkerOptions(**options), limits=Limits(messages=limit))  # type: ignore[arg-type]
    note("ended")


def cannot_connect(limit: int) -> list[object]:
    raise ConnectionLostError("there is no server")


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
