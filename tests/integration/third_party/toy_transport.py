"""``toy:///path/to/file?queue=orders&group=stock``: a transport in one file, as somebody else would write it.

A file of SQLite plays the server. Each queue has groups of consumers, and every group gets every message.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bus import ConnectionLostError
from bus.clock import Clock
from bus.transports.base import Ack, Claim, Delivery, Discard, Outgoing, Park, Requeue, Sent, Settlement
from bus.transports.dsn import Dsn, options_from
from bus.transports.registry import DriverContext

SCHEMA = """
    CREATE TABLE IF NOT EXISTS consumers (queue TEXT, consumers TEXT, UNIQUE (queue, consumers));
    CREATE TABLE IF NOT EXISTS server (started INTEGER);
    CREATE TABLE IF NOT EXISTS message (
        id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT, consumers TEXT, body BLOB, headers TEXT, priority INTEGER,
        due REAL, deliveries INTEGER DEFAULT 0, token TEXT, holder INTEGER
    );
"""


@dataclass(frozen=True)
class ToyOptions:
    queue: str = "default"
    group: str = ""


def create(name: str, dsn: Dsn, options: Mapping[str, object], context: DriverContext) -> ToyDriver:
    return ToyDriver(dsn.path, options_from(ToyOptions, dsn, options, name), context.clock)


def restart(path: str) -> None:
    """Restart the server: it forgets its connections, and who had claimed what."""
    with sqlite3.connect(path) as server:
        server.execute("UPDATE message SET token = NULL")
        server.execute("INSERT INTO server VALUES (1)")
    server.close()


class ToyClaim(Claim):
    __slots__ = ("token",)

    def __init__(self, transport_id: int, deliveries: int, origin: str, token: str) -> None:
        super().__init__(transport_id, deliveries, origin)
        self.token = token


class ToyDriver:
    def __init__(self, path: str, options: ToyOptions, clock: Clock) -> None:
        self._path = path
        self._options = options
        self._clock = clock
        self._lock = threading.RLock()
        self._held: dict[str, ToyClaim] = {}
        self._connection: sqlite3.Connection | None = None
        self._server_started = 0

    @property
    def _origin(self) -> str:
        return f"{self._options.queue}:{self._options.group}" if self._options.group else self._options.queue

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent]:
        with self._transaction() as server:
            return [self._send(server, outgoing) for outgoing in batch]

    def _send(self, server: sqlite3.Connection, outgoing: Outgoing) -> Sent:
        if outgoing.origin is not None:
            queue, _, group = outgoing.origin.partition(":")
            targets = [(queue, group)]
        else:
            targets = server.execute(
                "SELECT queue, consumers FROM consumers WHERE queue = ?", (self._options.queue,)
            ).fetchall()
        number = None
        for queue, group in targets:
            number = server.execute(
                "INSERT INTO message (queue, consumers, body, headers, priority, due) VALUES (?, ?, ?, ?, ?, ?)",
                (queue, group, *self._columns(outgoing)),
            ).lastrowid
        return Sent(number if len(targets) == 1 else None)

    def _columns(self, outgoing: Outgoing) -> tuple[object, ...]:
        due = self._clock.now() + max(0, outgoing.delay_ms) / 1000
        return outgoing.body, json.dumps(dict(outgoing.headers)), outgoing.priority, due

    def get(self, limit: int) -> Sequence[Delivery]:
        deliveries: list[Delivery] = []
        with self._transaction() as server:
            self._release_those_of_the_dead(server)
            waiting = server.execute(
                "SELECT id, body, headers, deliveries FROM message WHERE queue = ? AND consumers = ? AND token IS NULL"
                " AND due <= ? ORDER BY priority DESC, due, id LIMIT ?",
                (self._options.queue, self._options.group, self._clock.now(), max(0, limit)),
            ).fetchall()
            for number, body, headers, before in waiting:
                if before and deliveries:
                    break
                deliveries.append(self._claim(server, number, body, headers, before + 1))
                if before:
                    break
        return deliveries

    def _claim(self, server: sqlite3.Connection, number: int, body: bytes, headers: str, deliveries: int) -> Delivery:
        claim = ToyClaim(number, deliveries, self._origin, uuid.uuid4().hex)
        server.execute(
            "UPDATE message SET token = ?, holder = ?, deliveries = ? WHERE id = ?",
            (claim.token, os.getpid(), deliveries, number),
        )
        self._held[claim.token] = claim
        return Delivery(body, json.loads(headers), claim)

    def _release_those_of_the_dead(self, server: sqlite3.Connection) -> None:
        for (holder,) in server.execute("SELECT DISTINCT holder FROM message WHERE token IS NOT NULL").fetchall():
            if not _is_alive(holder):
                server.execute("UPDATE message SET token = NULL WHERE holder = ?", (holder,))

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        lost: list[Claim] = []
        with self._transaction() as server:
            for settlement in batch:
                assert isinstance(settlement.claim, ToyClaim)
                self._held.pop(settlement.claim.token, None)
                if not self._settle(server, settlement, settlement.claim.token):
                    lost.append(settlement.claim)
        return lost

    def _settle(self, server: sqlite3.Connection, settlement: Settlement, token: str) -> int:
        match settlement:
            case Ack() | Discard():
                return server.execute("DELETE FROM message WHERE token = ?", (token,)).rowcount
            case Requeue(_, outgoing) | Park(_, outgoing):
                body, headers, priority, due = self._columns(outgoing)
                return server.execute(
                    "UPDATE message SET body = ?, headers = ?, priority = ?, due = ?, deliveries = 0, token = NULL"
                    " WHERE token = ?",
                    (body, headers, priority, math.inf if isinstance(settlement, Park) else due, token),
                ).rowcount

    def close(self) -> None:
        with self._lock:
            if self._connection is None:
                return
            try:
                with self._transaction() as server:
                    for claim in self._held.values():
                        unbegun = claim.withdraw_unless_begun()
                        claim.withdraw()
                        server.execute(
                            "UPDATE message SET token = NULL, deliveries = deliveries - ? WHERE token = ?",
                            (unbegun, claim.token),
                        )
            except ConnectionLostError:
                pass  # the server has forgotten these claims already
            self._held.clear()
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._connection is None:
                try:
                    self._connection = self._connect()
                except sqlite3.OperationalError as error:
                    raise ConnectionLostError(f"The toy server cannot be reached: {error}.") from error
            with self._connection as server:
                server.execute("BEGIN IMMEDIATE")
                if self._server_started != _restarts(server):
                    self._server_started = _restarts(server)
                    for claim in self._held.values():
                        claim.withdraw()
                    self._held.clear()
                    raise ConnectionLostError("The toy server has restarted.")
                yield server

    def _connect(self) -> sqlite3.Connection:
        server = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        server.execute("PRAGMA synchronous = OFF")
        server.executescript(SCHEMA)
        server.execute("INSERT OR IGNORE INTO consumers VALUES (?, ?)", (self._options.queue, self._options.group))
        self._server_started = _restarts(server)
        return server


def _restarts(server: sqlite3.Connection) -> int:
    return int(server.execute("SELECT count(*) FROM server").fetchone()[0])


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
