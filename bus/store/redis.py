"""A store in Redis, for workers on any number of hosts."""

from __future__ import annotations

from typing import Final

from bus.transports.dsn import Dsn
from bus.transports.redis.connection import Script, Server
from bus.transports.redis.options import server_options

_SWAP: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
""")
_DELETE_IF: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")


class RedisStore:
    """Keeps values under keys of a Redis. Thread-safe; connects when it is first used.

    Times are counted by the server. Leases in it are renewed by those who hold them. A server that evicts keys when its
    memory is full ("maxmemory-policy"), or that keeps nothing on disk, forgets what was agreed on.

    Args:
        dsn: the server, as ``redis://localhost:6379`` or ``rediss://user:password@host/2``; its query has the options
            of a Redis transport that concern the connection.
        prefix: what every key begins with.
    """

    def __init__(self, dsn: str | Dsn = "redis://localhost:6379", *, prefix: str = "idempotency:") -> None:
        parsed = Dsn.parse(dsn) if isinstance(dsn, str) else dsn
        self._server = Server(server_options("The store", parsed))
        self._prefix = prefix

    def put_if_absent(self, key: str, value: str, ttl: float | None = None) -> bool:
        """Store a value unless the key has one."""
        time = () if ttl is None else ("PX", _milliseconds(ttl))
        return self._server.execute("SET", self._prefix + key, value, "NX", *time) is not None

    def swap(self, key: str, expected: str, value: str, ttl: float | None = None) -> bool:
        """Replace one value by another."""
        time = "" if ttl is None else _milliseconds(ttl)
        return bool(self._server.run(_SWAP, (self._prefix + key,), (expected, value, time)))

    def delete_if(self, key: str, expected: str) -> bool:
        """Delete a value."""
        return bool(self._server.run(_DELETE_IF, (self._prefix + key,), (expected,)))

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None."""
        found = self._server.execute("GET", self._prefix + key)
        return None if found is None else bytes(found).decode(errors="replace")

    def close(self) -> None:
        """Let go of the connections. Idempotent; from any thread."""
        self._server.close()


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
