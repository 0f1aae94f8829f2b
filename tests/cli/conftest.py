"""A small application in a folder of its own, on which the real command runs in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

SHOP = '''
"""Ships orders while nothing is broken."""

import time
from dataclasses import dataclass
from pathlib import Path

from bus import UnrecoverableError, handler, message


@message("order.placed", aliases=["OrderPlaced"])
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@message("order.cancelled")
@dataclass(frozen=True)
class OrderCancelled:
    order_id: str


@message("ping")
@dataclass(frozen=True)
class Ping:
    """Has no transport."""


@handler
def ship(event: OrderPlaced) -> None:
    if Path("broken").exists():
        raise UnrecoverableError(f"no stock for {event.order_id}")
    with Path("shipped.txt").open("a") as shipped:
        shipped.write(event.order_id + "\\n")


@handler
def refund(event: OrderCancelled) -> None:
    raise UnrecoverableError("no refund for " + event.order_id)


@message("nap", transport="async")
@dataclass(frozen=True)
class Nap:
    """Is handled for longer than anybody waits."""


@handler
def nap(event: Nap) -> None:
    print("napping", flush=True)
    time.sleep(120)


@handler
def pong(event: Ping) -> None:
    Path("pong.txt").write_text("pong")
'''

CONFIGURATION = """
messenger:
  imports: [shop]
  failure_transport: failed
  connections: { default: 'sqlite:///bus.db' }
  transports:
    async: 'sql://default?queue_name=async'
    failed: 'sql://default?queue_name=failed'
  routing:
    order.placed: async
    order.cancelled: async
"""


@dataclass(frozen=True)
class Shop:
    """The application. Its ``bus`` runs the command there."""

    path: Path

    def bus(
        self, *arguments: str, stdin: str | bytes = b"", variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command with something piped in, and return its outcome."""
        return self._run([sys.executable, "-m", "bus", *arguments], stdin, variables)

    def installed_bus(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command as it is installed: the working directory does not come first on the path."""
        return self._run([sys.executable, "-P", "-m", "bus", *arguments], b"", None)

    def _run(
        self, command: list[str], stdin: str | bytes, variables: Mapping[str, str] | None
    ) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            command,
            cwd=self.path,
            env={**self.environment(variables), "PYTHONFAULTHANDLER": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, timeout=60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # makes it print the stack of every thread
            pytest.fail(f"{command} does not end: {process.communicate()[1].decode()}")
        return subprocess.CompletedProcess(command, process.returncode, out.decode(), err.decode())

    def ok(self, *arguments: str, stdin: str | bytes = b"") -> str:
        """Run the command, which must succeed, and return what it printed."""
        done = self.bus(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--format", "json"))

    def on_a_terminal(self, *arguments: str, typed: str = "") -> tuple[int, str]:
        """Run the command on a terminal where somebody types; return its exit code and what stood there."""
        main, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "bus", *arguments],
            cwd=self.path,
            env=self.environment({"TERM": "xterm", "COLUMNS": "120"}),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        os.write(main, typed.encode())
        shown = b""
        try:
            while chunk := os.read(main, 65536):
                shown += chunk
        except OSError:
            pass  # Linux says so when the last writer has closed the terminal
        os.close(main)
        return process.wait(60), shown.decode()

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("BUS_", "DATABASE_URL"))}
        return {**own, "PYTHONPATH": str(ROOT), **(variables or {})}

    def dispatch(self, *order_ids: str, type_name: str = "order.placed") -> None:
        self.ok("dispatch", type_name, "-", stdin="".join(f'{{"order_id": "{each}"}}\n' for each in order_ids))

    def fail(self, *order_ids: str) -> list[str]:
        """Let orders fail, and return the ids of their messages."""
        self.dispatch(*order_ids)
        self.break_()
        self.ok("consume", "async", "--stop-when-empty")
        ids = {each["body"]["order_id"]: each["id"] for each in self.json("failed", "show", "--max", "1000")}
        return [ids[json.loads(f'"{each}"')] for each in order_ids]

    def counts(self) -> dict[str, dict[str, int]]:
        counted: dict[str, dict[str, int]] = self.json("stats")["transports"]
        return counted

    def shipped(self) -> list[str]:
        file = self.path / "shipped.txt"
        return file.read_text().split() if file.exists() else []

    def break_(self) -> None:
        (self.path / "broken").touch()

    def repair(self) -> None:
        (self.path / "broken").unlink()

    def configure(self, text: str) -> None:
        (self.path / "messenger.yaml").write_text(text)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    (tmp_path / "shop.py").write_text(SHOP)
    shop = Shop(tmp_path)
    shop.configure(CONFIGURATION)
    return shop
