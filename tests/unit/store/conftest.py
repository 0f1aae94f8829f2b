from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from bus import MemoryStore, RedisStore, SqlStore, Store
from bus.testing.clock import FakeClock
from tests.servers.redis import Keys


class StoreClock(FakeClock):
    """The clock of a store. A server counts by its own: what passes is taken off the times of its keys."""

    keys: Keys | None = None
    shift: Callable[[int], object] | None = None

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        if self.shift is not None:
            self.shift(round(seconds * 1000))
        if self.keys is None:
            return
        with closing(self.keys.client()) as client:
            for key in client.scan_iter(f"{self.keys.prefix}*"):
                left = client.pttl(key)
                if left > 0:
                    client.pexpire(key, max(0, left - round(seconds * 1000)))


def shift(store: SqlStore, milliseconds: int) -> None:
    """Let the times of all keys end earlier."""
    statement = f"UPDATE messenger_store SET expires_at = expires_at - {milliseconds}"
    store._database.write(lambda cursor: cursor.execute(statement), within=5)


@pytest.fixture
def clock() -> StoreClock:
    return StoreClock()


@pytest.fixture(params=["memory", "sql", "postgresql", "mariadb", "redis"])
def store(request: pytest.FixtureRequest, clock: StoreClock, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore(clock)
    elif request.param == "sql":
        made = SqlStore(tmp_path / "bus.db", clock=clock)
    elif request.param in ("postgresql", "mariadb"):
        made = SqlStore(request.getfixturevalue("postgres_dsn" if request.param == "postgresql" else "mariadb_dsn"))
        made.set_up()
        clock.shift = partial(shift, made)
    else:
        clock.keys = request.getfixturevalue("redis_keys")
        made = RedisStore(clock.keys.url, prefix=clock.keys.prefix)
    yield made
    made.close()
