"""Workers and Redis die, stop and lose each other's words under load: nothing is lost, and work goes on by itself."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bus import PartitionKeyStamp
from tests.faults.application import Job
from tests.faults.deployment import hold_for
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN, DONE
from tests.faults.redis_deployment import FETCH_SIZE, RedisDeployment
from tests.faults.sizes import (
    REDIS_CLIENT_KILLS,
    REDIS_KILLS,
    REDIS_LOST_REPLIES,
    REDIS_ORDERED,
    REDIS_WORKER_KILLS,
    Kills,
)
from tests.faults.test_ordering import KEYS, WORKERS, inversions, publish
from tests.faults.test_sigkill import mixed_jobs, refused
from tests.faults.waiting import wait_until
from tests.servers.fixtures import private_redis
from tests.servers.proxy import Direction, Proxy
from tests.servers.redis import RedisServer

OnRedis = Callable[..., RedisDeployment]
TWO_WORKERS = (("--concurrency", "1"), ("--concurrency", "4"))
IN_FLIGHT = (1 + FETCH_SIZE, 4 + FETCH_SIZE)
BEYOND_A_CLAIM = 12.0  # seconds


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture
def on_redis(tmp_path: Path, server: RedisServer) -> Iterator[OnRedis]:
    """Yield what makes a deployment on an empty Redis, with options of the transport."""
    with ExitStack() as deployments:

        def make(url: str | None = None, **options: object) -> RedisDeployment:
            deployment = RedisDeployment(tmp_path, url or server.url, **options)
            deployments.callback(deployment.close)
            return deployment

        yield make
    server.execute("CONFIG", "SET", "maxmemory", "0")
    server.execute("FLUSHALL")


def check(deployment: RedisDeployment, jobs: list[Job], figures: Figures, name: str, faults: int, bound: int) -> None:
    totals = deployment.totals()
    figures.add(name, totals, faults=faults, bound=bound)
    assert totals.acknowledged == len(jobs)
    assert totals.lost == totals.unexpected == 0
    assert totals.repeats <= bound
    assert set(deployment.failed()) == set(refused(jobs)), "an innocent message was condemned"


@pytest.mark.parametrize("size", REDIS_WORKER_KILLS)
def test_workers_killed_at_random_under_load_lose_nothing(size: Kills, on_redis: OnRedis, figures: Figures) -> None:
    deployment, jobs = on_redis(), mixed_jobs(size.messages)
    bound = sum(IN_FLIGHT)
    with deployment.under_load(jobs, *TWO_WORKERS) as workers:
        for kill in range(size.kills):
            deployment.wait_until_handled((kill + 1) * size.messages // (size.kills + 4))
            victim = kill % len(workers)
            workers[victim].kill()
            bound += IN_FLIGHT[victim]
            workers[victim] = deployment.worker("--fetch-size", str(FETCH_SIZE), *TWO_WORKERS[victim])

    check(deployment, jobs, figures, "R1 random SIGKILL on Redis", size.kills, bound)


@pytest.mark.parametrize("size", REDIS_KILLS)
def test_a_server_that_is_killed_under_load_loses_nothing(
    size: Kills, server: RedisServer, on_redis: OnRedis, figures: Figures
) -> None:
    deployment, jobs = on_redis(), mixed_jobs(size.messages)
    with deployment.under_load(jobs, *TWO_WORKERS):
        for kill in range(size.kills):
            deployment.wait_until_handled((kill + 1) * size.messages // (size.kills + 2))
            server.kill()
            server.start()

    check(deployment, jobs, figures, "R2 SIGKILL of Redis", size.kills, size.kills * (sum(IN_FLIGHT) + 1))


@pytest.mark.parametrize("size", REDIS_CLIENT_KILLS)
def test_connections_that_are_killed_under_load_lose_nothing(
    size: Kills, server: RedisServer, on_redis: OnRedis, figures: Figures
) -> None:
    deployment, jobs = on_redis(), mixed_jobs(size.messages)
    with deployment.under_load(jobs, *TWO_WORKERS):
        for kill in range(size.kills):
            deployment.wait_until_handled((kill + 1) * size.messages // (size.kills + 2))
            server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    check(deployment, jobs, figures, "R6 CLIENT KILL on Redis", size.kills, size.kills * (sum(IN_FLIGHT) + 1))


@pytest.mark.parametrize("size", REDIS_LOST_REPLIES)
def test_replies_that_are_lost_under_load_lose_nothing(
    size: Kills, server: RedisServer, on_redis: OnRedis, figures: Figures
) -> None:
    with Proxy(("127.0.0.1", server.port)) as proxy:
        deployment, jobs = on_redis(f"redis://127.0.0.1:{proxy.port}", read_timeout=1), mixed_jobs(size.messages)
        with deployment.under_load(jobs, *TWO_WORKERS):
            for fault in range(size.kills):
                deployment.wait_until_handled((fault + 1) * size.messages // (size.kills + 2))
                with proxy.swallowing(Direction.TO_CLIENT):
                    hold_for(1.5)

        check(deployment, jobs, figures, "R6 lost replies of Redis", size.kills, size.kills * (sum(IN_FLIGHT) + 1))


def test_a_server_that_is_stopped_beyond_all_claims_has_nobody_taken_for_dead(
    server: RedisServer, on_redis: OnRedis, figures: Figures
) -> None:
    deployment, jobs = on_redis(), mixed_jobs(200)
    with deployment.under_load(jobs, *TWO_WORKERS):
        deployment.wait_until_handled(50)
        server.freeze()
        hold_for(BEYOND_A_CLAIM)
        server.thaw()

    check(deployment, jobs, figures, "R2 SIGSTOP of Redis", 1, sum(IN_FLIGHT) + 1)


def test_a_worker_that_is_stopped_beyond_its_claims_begins_nothing_that_others_have(
    on_redis: OnRedis, figures: Figures
) -> None:
    deployment, jobs = on_redis(), [Job(number, "sleep", 0.05) for number in range(100)]
    with deployment.under_load(jobs, *TWO_WORKERS) as workers:
        deployment.wait_until_handled(10)
        workers[1].send(signal.SIGSTOP)
        # The other one has everything in the end, what the stopped one held included.
        deployment.wait_until_handled(len(jobs) - 4)
        workers[1].send(signal.SIGCONT)

    totals = deployment.totals()
    figures.add("R14 SIGSTOP of a worker on Redis", totals, bound=IN_FLIGHT[1])
    assert totals.lost == totals.unexpected == 0
    assert totals.repeats <= IN_FLIGHT[1]
    assert deployment.failed() == []


def test_a_server_without_memory_refuses_and_what_it_has_is_handled(
    server: RedisServer, on_redis: OnRedis, figures: Figures
) -> None:
    # None that fails for good: the failure transport is on the same server.
    deployment, jobs = on_redis(), [Job(number, "fail" if number % 7 == 0 else "nothing", 2) for number in range(200)]
    with deployment.under_load(jobs, *TWO_WORKERS, pause=0.02):
        deployment.wait_until_handled(50)
        server.execute("CONFIG", "SET", "maxmemory", "1")
        before = len(deployment.ledger.acknowledged)
        wait_until(deployment.is_empty, "everything that was accepted is handled")
        assert len(deployment.ledger.acknowledged) <= before + 1
        server.execute("CONFIG", "SET", "maxmemory", "0")

    check(deployment, jobs, figures, "R15 Redis without memory", 1, 0)


@pytest.mark.parametrize("count", REDIS_ORDERED)
def test_no_message_overtakes_an_earlier_one_of_its_key_although_an_owner_is_killed(
    count: int, server: RedisServer, on_redis: OnRedis, figures: Figures
) -> None:
    deployment = on_redis(ordered=True)
    chance = random.Random(figures.seed)
    failing = set(chance.sample(range(count), count // 10))
    workers = [deployment.worker("--concurrency", "4") for _ in range(WORKERS)]
    wait_until(lambda: owners(server) == WORKERS, "each worker has its share of the partitions")
    publish(deployment, count, failing)
    deployment.wait_until_handled(count // 4)
    workers[0].kill()
    deployment.wait_until_empty(within=60 + count / 20)
    for worker in workers[1:]:
        worker.stop()

    totals = deployment.totals()
    done, begun = deployment.journal.of(DONE), deployment.journal.of(BEGUN)
    readers = {event.pid for event in done}
    figures.add("R16 order per key on Redis", totals, inversions=inversions(done) + inversions(begun))
    assert totals.ok == count
    assert inversions(done) == inversions(begun) == 0
    assert len(readers) >= WORKERS - 1, "the partitions were not shared"
    assert count % KEYS == 0


def owners(server: RedisServer) -> int:
    """Count the processes that read partitions."""
    return len(server.execute("KEYS", "bus:partition-reader:*"))


def test_a_request_to_stop_reaches_workers_through_redis(on_redis: OnRedis) -> None:
    deployment = on_redis()
    workers = [deployment.worker() for _ in range(2)]
    for worker in workers:
        worker.wait_for_line("Worker started")

    stopping = deployment.processes.start("-m", "bus", "stop-workers")
    assert stopping.wait() == 0

    assert [worker.wait() for worker in workers] == [0, 0]


def test_keyed_messages_are_spread_and_read(server: RedisServer, on_redis: OnRedis) -> None:
    deployment = on_redis(partitions=4)
    for number in range(40):
        deployment.publish([Job(number)], [PartitionKeyStamp(f"key-{number % 8}")])
    streams = [key for key in server.execute("KEYS", "async.*") if server.execute("TYPE", key) == "stream"]
    assert len(streams) >= 3
    assert server.execute("EXISTS", "async") == 0
    assert all("body" in json.loads(entry[1]["message"]) for entry in server.execute("XRANGE", streams[0], "-", "+"))

    deployment.drain()

    assert deployment.totals().ok == 40
