"""Private MariaDB servers: own port and data, so that tests may do to them what they like."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql

from tests.servers import ports
from tests.servers.guard import PATIENCE, Guarded
from tests.servers.unprivileged import command_as, give, user_of

USER = "root"
_SETTINGS = {
    "bind-address": "127.0.0.1",
    "max-connections": "200",
    "innodb-buffer-pool-size": "64M",
    # The tests kill the server and never the machine, so nothing has to reach the disk.
    "innodb-flush-log-at-trx-commit": "2",
    "innodb-log-file-size": "32M",
}


def missing() -> str | None:
    """Say what of MariaDB is not installed."""
    for program in ("mariadbd", "mariadb-install-db"):
        if _path_of(program) is None:
            return f"MariaDB is not installed: there is no {program} (scripts/services installs it)"
    return None


def _path_of(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")


class MariaDb:
    """A server in a folder. After ``kill`` or ``stop``, ``start`` brings it back with its data."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self._resources = ExitStack()
        self.port = self._resources.enter_context(ports.reserved(ports.MARIADB, 1))
        self._settings = {**_SETTINGS, **(settings or {})}
        self._user = user_of("mysql")
        self._folder = folder
        self._data = folder / "data"
        self._server: Guarded | None = None
        self._databases = itertools.count(1)
        give(folder, self._user)
        self._environment = {"PATH": os.environ["PATH"], "TZ": "UTC"}
        self._initialize()

    def _initialize(self) -> None:
        command = [str(_path_of("mariadb-install-db")), "--no-defaults", f"--datadir={self._data}"]
        command += ["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=32M"]
        done = subprocess.run(
            command_as(self._user, command),
            env=self._environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    # --- its life ---

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        assert self._server is None, "it runs already"
        settings = {"port": str(self.port), "socket": str(self._folder / "socket"), **self._settings}
        command = [str(_path_of("mariadbd")), "--no-defaults", f"--datadir={self._data}"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        self._server = Guarded(command_as(self._user, command), self._environment, self._folder / "output.txt")
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._server.alive, f"MariaDB has ended:\n{self.output}"
            assert time.monotonic() < deadline, f"MariaDB did not start in {PATIENCE:g} s:\n{self.output}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except pymysql.err.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL: it recovers when it starts again."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        server, self._server = self._running, None
        server.send(number)
        server.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop its process in its tracks; its connections stay open and silent."""
        self._running.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._running.send(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        if self._server is not None:
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

    def url(self, database: str = "mysql", port: int | None = None) -> str:
        """Return the DSN of a database, perhaps through a proxy on another port."""
        return f"mariadb://{USER}@127.0.0.1:{port or self.port}/{database}"

    def connect(self, database: str | None = None) -> pymysql.Connection[pymysql.cursors.Cursor]:
        """Return a connection in autocommit mode."""
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=USER, database=database, autocommit=True, connect_timeout=5
        )

    def execute(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def make_database(self) -> str:
        """Make a new and empty database; return its DSN."""
        name = f"test_{next(self._databases)}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return self.url(name)

    def delete_database(self, dsn: str) -> None:
        """Delete a database."""
        self.execute(f"DROP DATABASE IF EXISTS {dsn.rpartition('/')[2]}")

    # --- its faults ---

    def terminate_backends(self) -> int:
        """Cut all connections but this one, as an administrator may; return how many there were."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user = 'root'"
            )
            found = [number for (number,) in cursor.fetchall()]
            for number in found:
                try:
                    cursor.execute(f"KILL CONNECTION {number}")
                except pymysql.err.OperationalError:  # it has ended meanwhile
                    pass
        return len(found)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Have it refuse to write, as a server does that is no longer the primary one; root may still write."""
        self.execute("SET GLOBAL read_only = 1")
        try:
            yield
        finally:
            self.execute("SET GLOBAL read_only = 0")
