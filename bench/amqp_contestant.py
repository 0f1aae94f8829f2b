"""One contestant does one thing, in a process of its own, and prints what it took as JSON.

python -m bench.amqp_contestant CONTESTANT TASK DSN COUNT
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Protocol

from bench.orders import OrderPlaced
from bench.rounds import Cost, cost_of

THREADS = 8
PAUSE = 0.02  # seconds between messages to an idle worker, on average


class Contestant(Protocol):
    def sender(self) -> Callable[[OrderPlaced], object]:
        """Return what sends one message and returns when RabbitMQ has confirmed it."""

    def fill(self, orders: list[OrderPlaced]) -> None:
        """Send many messages; return when all are confirmed."""

    def work(self, handle: Callable[[OrderPlaced], None]) -> None:
        """Handle messages for ever."""


def contestant(name: str, dsn: str, *, confirmed: bool) -> Contestant:
    """Return a contestant; the bus and pika by hand meet no import of another library."""
    match name:
        case "bus":
            from bench.amqp_bus import Bus

            return Bus(dsn)
        case "raw, batched":
            from bench.amqp_raw import Raw

            return Raw(dsn, 100)
        case "raw, one by one":
            from bench.amqp_raw import Raw

            return Raw(dsn, 1)
        case "raw, blocking":
            from bench.amqp_raw import RawBlocking

            return RawBlocking(dsn, 1)
    from bench import amqp_peers

    peers: Mapping[str, Callable[[], Contestant]] = {
        "dramatiq": lambda: amqp_peers.Dramatiq(dsn, confirmed=confirmed),
        "dramatiq, 1 thread": lambda: amqp_peers.Dramatiq(dsn, confirmed=confirmed, threads=1),
        "celery": lambda: amqp_peers.Celery(dsn, confirmed=confirmed),
        "kombu": lambda: amqp_peers.Kombu(dsn, confirmed=confirmed),
        "faststream": lambda: amqp_peers.FastStream(dsn),
    }
    return peers[name]()


def orders(count: int) -> list[OrderPlaced]:
    return [OrderPlaced(f"o-{number}", 1) for number in range(count)]


# --- tasks ---


def consume(one: Contestant, count: int) -> None:
    """Measure from the handling of the first tenth on: what starting costs is not the question."""
    one.fill(orders(count))
    warm, seen = count // 10, set()
    wall = cpu = 0.0

    def handle(order: OrderPlaced) -> None:
        nonlocal wall, cpu
        seen.add(order.order_id)
        if len(seen) == warm:
            wall, cpu = time.perf_counter(), time.process_time()
        elif len(seen) == count:
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            end_with(asdict(Cost(wall / (count - warm), cpu / (count - warm))))

    one.work(handle)


def dispatch(one: Contestant, count: int) -> None:
    """Send messages one after the other, each confirmed."""
    send, waiting = one.sender(), orders(count)
    send(waiting[0])
    end_with(asdict(cost_of(lambda: [send(order) for order in waiting], count)))


def dispatch_many(one: Contestant, count: int) -> None:
    """Send messages together."""
    waiting = orders(count)
    one.fill(waiting[:10])
    end_with(asdict(cost_of(lambda: one.fill(waiting), count)))


def dispatch_in_threads(one: Contestant, count: int) -> None:
    """Send messages from several threads, each one after the other."""
    senders = [one.sender() for _ in range(THREADS)]
    share = orders(count // THREADS)
    threads = [threading.Thread(target=lambda send=send: [send(order) for order in share]) for send in senders]

    def work() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    end_with(asdict(cost_of(work, count)))


def wait(one: Contestant, count: int) -> None:
    """Be an idle worker; measure how old each message is when it is handled."""
    ages: list[float] = []

    def handle(order: OrderPlaced) -> None:
        ages.append((time.monotonic_ns() - order.quantity) / 1e9)
        if len(ages) == count:
            # The first ones meet cold caches and new connections.
            ages[: count // 10] = []
            ages.sort()
            end_with({"p50": ages[len(ages) // 2], "p99": ages[int(len(ages) * 0.99)]})

    one.work(handle)


def disturb(one: Contestant, count: int) -> None:
    """Send messages to an idle worker, with pauses; each carries the time at which it was sent."""
    send, chance = one.sender(), random.Random(7)
    for number in range(count):
        time.sleep(PAUSE * (0.5 + chance.random()))
        send(OrderPlaced(f"o-{number}", time.monotonic_ns()))
    end_with({})


TASKS: Mapping[str, Callable[[Contestant, int], None]] = {
    task.__name__: task for task in (consume, dispatch, dispatch_many, dispatch_in_threads, wait, disturb)
}


def end_with(result: Mapping[str, float]) -> None:
    """Print the result and leave: not every worker can be stopped from within its handler."""
    print(json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    name, task, dsn, count = sys.argv[1:]
    TASKS[task](contestant(name, dsn, confirmed=task != consume.__name__), int(count))
