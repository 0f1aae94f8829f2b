"""Private PostgreSQL servers: own port and data, so that tests may do to them what they like."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.servers import ports
from tests.servers.guard import PATIENCE, Guarded
from tests.servers.unprivileged import command_as, give, user_of

USER = "postgres"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    # The tests kill the server and never the machine, so nothing has to reach the disk.
    "fsync": "off",
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
}


def binaries() -> Path | None:
    """Return the folder of the programs of the newest PostgreSQL here."""
    found = [each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


def missing() -> str | None:
    """Say what of PostgreSQL is not installed."""
    if binaries() is None:
        return "PostgreSQL is not installed: no initdb is below /usr/lib/postgresql (scripts/services installs it)"
    return None


class Postgres:
    """A server in a folder. After ``kill`` or ``stop``, ``start`` brings it back with its data."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        found = binaries()
        assert found is not None
        self._binaries = found
        self._resources = ExitStack()
        self.port = self._resources.enter_context(ports.reserved(ports.POSTGRES, 1))
        self._settings = {**_SETTINGS, **(settings or {})}
        self._user = user_of("postgres")
        self._folder = folder
        self._data = folder / "data"
        self._server: Guarded | None = None
        self._databases = itertools.count(1)
        give(folder, self._user)
        self._environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        self._initialize()

    def _initialize(self) -> None:
        command = [str(self._binaries / "initdb"), "--pgdata", str(self._data), "--username", USER, "--auth", "trust"]
        command += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        done = subprocess.run(
            command_as(self._user, command),
            env=self._environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    # --- its life ---

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        assert self._server is None, "it runs already"
        settings = {"port": str(self.port), "unix_socket_directories": "", **self._settings}
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        self._server = Guarded(command_as(self._user, command), self._environment, self._folder / "output.txt")
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._server.alive, f"PostgreSQL has ended:\n{self.output}"
            assert time.monotonic() < deadline, f"PostgreSQL did not start in {PATIENCE:g} s:\n{self.output}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.connect(connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop it in good order, its connections cut (``pg_ctl stop -m fast``)."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Have it drop everything (``pg_ctl stop -m immediate``): it recovers when it starts again."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        server, self._server = self._running, None
        server.send(number)
        server.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes in their tracks; its connections stay open and silent."""
        processes = [self._running.pid, *_children(self._running.pid)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.send(signal.SIGQUIT)
            self._server.end()
            self._server = None
        self._resources.close()

    @property
    def _running(self) -> Guarded:
        assert self._server is not None, "it does not run"
        return self._server

    @property
    def output(self) -> str:
        """Return what it printed, the last 4,000 characters."""
        return (self._folder / "output.txt").read_text(errors="replace")[-4000:]

    # --- its use ---

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return the DSN of a database, perhaps through a proxy on another port."""
        return f"postgresql://{USER}@127.0.0.1:{port or self.port}/{database}"

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """Return a connection in autocommit mode."""
        return psycopg.connect(self.url(database), autocommit=True, **options)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def make_database(self) -> str:
        """Make a new and empty database; return its DSN."""
        name = f"test_{next(self._databases)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def delete_database(self, dsn: str) -> None:
        """Delete a database; its connections are cut."""
        self.execute(f"DROP DATABASE IF EXISTS {dsn.rpartition('/')[2]} WITH (FORCE)")

    # --- its faults ---

    def terminate_backends(self) -> int:
        """Cut all connections but this one, as an administrator may; return how many there were."""
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        return len(self.execute(f"{cut} AND pid <> pg_backend_pid()"))

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Have it refuse to write, as a server does that is no longer the primary one."""
        self._set_read_only("on")
        try:
            yield
        finally:
            self._set_read_only("off")

    def _set_read_only(self, value: str) -> None:
        # What changes the setting must be allowed to write.
        with self.connect(options="-c default_transaction_read_only=off") as connection:
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
            connection.execute("SELECT pg_reload_conf()")


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
