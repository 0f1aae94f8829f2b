"""Private Redis servers: own port, folder and append-only file, so that tests may do to them what they like."""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import ports
from tests.servers.guard import PATIENCE, Guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

VARIABLE = "BUS_TEST_REDIS_DSN"


def missing() -> str | None:
    """Say what of Redis is not installed."""
    if shutil.which("redis-server") is None:
        return "Redis is not installed: there is no redis-server in the path (scripts/services installs it)"
    return None


def connect(url: str) -> redis.Redis:
    """Return a client for a test's own looks at a server."""
    import redis

    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=PATIENCE)


class Keys:
    """The streams of one test: their names share a beginning that nobody else has."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"bus-test-{uuid.uuid4().hex[:12]}"
        self._parts = url.partition("?")

    def stream(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def dsn(self, name: str, **options: object) -> str:
        """Return the DSN of a transport whose stream bears this name."""
        base, _, query = self._parts
        options = {"stream": self.stream(name), **options}
        return f"{base}?{'&'.join([*filter(None, [query]), *(f'{key}={value}' for key, value in options.items())])}"

    def client(self) -> redis.Redis:
        return connect(self.url)

    def delete_all(self) -> None:
        with closing(self.client()) as client:
            found = list(client.scan_iter(f"*{self.prefix}*", count=1000))
            for start in range(0, len(found), 1000):
                client.unlink(*found[start : start + 1000])


class RedisServer:
    """A server in a folder. After ``kill`` or ``stop``, ``start`` brings it back with its data."""

    def __init__(self, folder: Path, settings: Sequence[str] = (), *, persistent: bool = True) -> None:
        self.folder = folder
        self._resources = ExitStack()
        # The one behind it is for the bus between the nodes of a cluster.
        self.port = self._resources.enter_context(ports.reserved(ports.REDIS, 2))
        self._settings = [*(("--appendonly", "yes") if persistent else ()), *settings]
        self._process: Guarded | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    # --- its life ---

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None, "it runs already"
        binary = shutil.which("redis-server")
        assert binary is not None
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.socket)]
        self._process = Guarded(self._command(binary, where), {"PATH": os.environ["PATH"]}, self.folder / "output.txt")
        self._wait_until_it_answers()

    def _command(self, binary: str, where: Sequence[str]) -> Sequence[str]:
        return [binary, *where, "--dir", str(self.folder), "--save", "", *self._settings]

    def add_settings(self, *settings: str) -> None:
        """Add arguments to the command line of the next start."""
        self._settings += settings

    def stop(self) -> None:
        """Stop it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop its process in its tracks; its connections stay open and silent."""
        self._running.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running.send(signal.SIGCONT)

    def close(self) -> None:
        """End it and let go of its port."""
        if self._process is not None:
            self._process.end()
            self._process = None
        self._resources.close()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._running, None
        process.send(number)
        process.wait()

    @property
    def _running(self) -> Guarded:
        assert self._process is not None, "it does not run"
        return self._process

    def _wait_until_it_answers(self) -> None:
        import redis

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with closing(self.client()) as client:
                    client.ping()
                return
            except redis.RedisError:
                output = (self.folder / "output.txt").read_text(errors="replace")[-4000:]
                assert self._running.alive, f"Redis has ended:\n{output}"
                assert time.monotonic() < deadline, f"Redis did not start in {PATIENCE:g} s:\n{output}"
                time.sleep(0.02)

    # --- its use ---

    def client(self) -> redis.Redis:
        return connect(self.url)

    def execute(self, *command: Any) -> Any:
        """Run one command and return the answer."""
        with closing(self.client()) as client:
            return client.execute_command(*command)


@contextmanager
def running(folder: Path, settings: Sequence[str] = (), *, persistent: bool = True) -> Iterator[RedisServer]:
    """Yield a server that nobody else uses."""
    server = RedisServer(folder, settings, persistent=persistent)
    try:
        server.start()
        yield server
    finally:
        server.close()
