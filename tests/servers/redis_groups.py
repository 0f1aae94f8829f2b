"""Several private Redis servers that make one: a cluster of three, and a master with a replica and its Sentinel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import redis

from tests.servers.guard import PATIENCE
from tests.servers.redis import RedisServer, running

_SLOTS = 16_384
MASTER = "shop"


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class RedisCluster:
    """Three masters."""

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        self.nodes = nodes
        self.url = "redis://" + ",".join(f"127.0.0.1:{each.port}" for each in nodes)
        share = _SLOTS // len(nodes) + 1
        for number, node in enumerate(nodes):
            node.execute("CLUSTER", "ADDSLOTSRANGE", number * share, min(_SLOTS, (number + 1) * share) - 1)
            node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            node.execute("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].port + 1)
        _wait(lambda: all(self._is_ready(node) for node in nodes), "the cluster is ready")

    def _is_ready(self, node: RedisServer) -> bool:
        facts = str(node.execute("CLUSTER", "INFO")).split()
        return {"cluster_state:ok", f"cluster_known_nodes:{len(self.nodes)}"} <= set(facts)

    def flush(self) -> None:
        for node in self.nodes:
            node.execute("FLUSHALL")


@contextmanager
def cluster(folder: Path) -> Iterator[RedisCluster]:
    """Yield a running cluster."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            node = RedisServer(_folder(folder, f"node{number}"), ("--cluster-enabled", "yes"))
            stack.callback(node.close)
            node.add_settings("--cluster-port", str(node.port + 1))
            node.start()
            nodes.append(node)
        yield RedisCluster(nodes)


class Sentinel(RedisServer):
    """What watches a master, and puts its replica in its place when it is gone."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        super().__init__(folder, ("--sentinel",), persistent=False)
        self._configuration = folder / "sentinel.conf"
        self._configuration.write_text(
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 500\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )

    def _command(self, binary: str, where: Sequence[str]) -> Sequence[str]:
        return [binary, str(self._configuration), *where, "--dir", str(self.folder), "--sentinel"]


class Watched:
    """A master and its replica, watched by a Sentinel. ``url`` names the Sentinel."""

    def __init__(self, master: RedisServer, replica: RedisServer, sentinel: Sentinel) -> None:
        self.master, self.replica, self.sentinel = master, replica, sentinel
        self.url = f"redis://127.0.0.1:{sentinel.port}"
        self.options = {"sentinel_master": MASTER}
        _wait(lambda: master.execute("INFO", "replication")["connected_slaves"] == 1, "the replica follows")
        _wait(lambda: len(sentinel.execute("SENTINEL", "REPLICAS", MASTER)) == 1, "the Sentinel knows the replica")

    def wait_for_the_replica(self) -> None:
        """Wait until the replica has everything that the master has."""

        def is_even() -> bool:
            facts = self.master.execute("INFO", "replication")
            return bool(facts["slave0"]["offset"] == facts["master_repl_offset"])

        _wait(is_even, "the replica has everything")

    def fail_over(self) -> None:
        """Kill the master and wait until the replica has taken its place."""
        self.master.kill()

        def is_master() -> bool:
            with suppress(redis.ConnectionError):  # a server that changes its role ends its connections
                return bool(self.replica.execute("INFO", "replication")["role"] == "master")
            return False

        _wait(is_master, "the replica is master")


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Yield a running master with its replica and Sentinel."""
    with running(_folder(folder, "master")) as master:
        settings = ("--replicaof", f"127.0.0.1 {master.port}")
        with running(_folder(folder, "replica"), settings) as replica:
            sentinel = Sentinel(_folder(folder, "sentinel"), master)
            try:
                sentinel.start()
                yield Watched(master, replica, sentinel)
            finally:
                sentinel.close()
