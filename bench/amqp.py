"""How fast the bus is on RabbitMQ: beside dramatiq, Celery, kombu, FastStream, and pika by hand as the limit.

Each contestant does each thing in a process of its own, on a virtual host of its own of one private broker.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.plot import bars
from bench.report import Run, table
from bench.rounds import Cost, Figure, alternate, pin_to_one_processor
from tests.servers.rabbitmq import RabbitMq, missing

LONGEST = 600.0  # seconds for one contestant
BUS = "bus"
RAW = "raw, batched"
NAMES: Mapping[str, str] = {
    BUS: "bus",
    RAW: "pika by hand, acks in hundreds",
    "raw, one by one": "pika by hand, acks one by one",
    "raw, blocking": "pika by hand, BlockingConnection",
    "dramatiq": "dramatiq, 8 threads (its default)",
    "dramatiq, 1 thread": "dramatiq, 1 thread",
    "celery": "Celery, solo pool",
    "kombu": "kombu",
    "faststream": "FastStream",
}
# Sends that wait for each confirmation are pika's BlockingConnection in all variants.
SENDING: Mapping[str, str] = {**NAMES, RAW: "pika by hand"}
SYMFONY = (
    "Symfony Messenger with PHP's amqp extension, measured at another time on a machine like this one, dispatches "
    "25,000 messages a second, unconfirmed, and consumes 3,800."
)
CONSUME = "One worker process and a handler that only counts; a message is acknowledged when it was handled."
MANY = (
    "All are confirmed in the end: `dispatch_many` in batches of 500; pika by hand on a SelectConnection with at most "
    "1,000 unconfirmed; FastStream with 500 at once."
)
THREADS = (
    "Each thread waits for each of its confirmations. The bus shares one connection; the others have one per thread."
)
LATENCY = (
    "From the dispatch in one process to the handler in another one that was idle, in ms. Median of {} runs. Both "
    "processes share one processor, so these are upper bounds."
)


class Arena:
    """Runs contestants against one broker."""

    def __init__(self, broker: RabbitMq) -> None:
        self._broker = broker

    def cost(self, contestant: str, task: str, count: int) -> Callable[[], Cost]:
        def one_round() -> Cost:
            vhost = self._broker.make_vhost()
            try:
                return Cost(**self._run(contestant, task, vhost, count))
            finally:
                self._broker.delete_vhost(vhost)

        return one_round

    def latency(self, contestant: str, count: int) -> dict[str, float]:
        """Let a worker wait while another process sends now and then."""
        vhost = self._broker.make_vhost()
        command = self._command(contestant, "wait", vhost, count)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
            try:
                self._run(contestant, "disturb", vhost, count)
                answer, _ = worker.communicate(timeout=LONGEST)
            finally:
                worker.kill()
        self._broker.delete_vhost(vhost)
        return dict(json.loads(answer))

    def _run(self, contestant: str, task: str, vhost: str, count: int) -> dict[str, float]:
        command = self._command(contestant, task, vhost, count)
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
        if not done.stdout:
            raise SystemExit(f'"{contestant}" has failed to {task}:\n{done.stderr}')
        return dict(json.loads(done.stdout))

    def _command(self, contestant: str, task: str, vhost: str, count: int) -> list[str]:
        module = "bench.amqp_contestant"
        return [sys.executable, "-m", module, contestant, task, self._broker.url(vhost), str(count)]


def main() -> None:
    run = Run.from_command_line("amqp", "How fast the bus is on RabbitMQ.")
    if (problem := missing()) is not None:
        raise SystemExit(problem)
    with tempfile.TemporaryDirectory(prefix="bench-amqp-") as folder:
        # Started before anything is pinned: it may use all processors.
        broker = RabbitMq(Path(folder))
        try:
            broker.start()
            measure(run, Arena(broker), broker.version)
        finally:
            broker.close()


def measure(run: Run, arena: Arena, version: str) -> None:
    rounds = run.size(3, 1)
    pinned = pin_to_one_processor()

    def alternated(task: str, count: int, names: Sequence[str]) -> dict[str, Figure]:
        return alternate({name: arena.cost(name, task, count) for name in names}, rounds)

    workers = (BUS, *(name for name in NAMES if name != BUS))
    consumed = alternated("consume", run.size(10_000, 200), workers)
    peers = ("dramatiq", "celery", "kombu", "faststream")
    single = alternated("dispatch", run.size(1_000, 50), (BUS, RAW, *peers))
    many = alternated("dispatch_many", run.size(10_000, 200), (BUS, RAW, "faststream"))
    threads = alternated("dispatch_in_threads", run.size(4_000, 80), (BUS, RAW, "dramatiq", "celery"))
    waiting = (BUS, "raw, one by one", *peers)
    latencies = {name: [arena.latency(name, run.size(300, 20)) for _ in range(run.size(3, 1))] for name in waiting}
    bars(run.plot, {NAMES[name]: each.per_second for name, each in consumed.items()}, "messages/s", [NAMES[BUS]])
    repeated = run.size(3, 1)
    sections = [
        ("Consume", CONSUME, table(HEADER, rows(consumed, NAMES))),
        ("Dispatch one at a time", "Each is confirmed before the next one.", table(HEADER, rows(single, SENDING))),
        ("Dispatch many", MANY, table(HEADER, rows(many, SENDING))),
        ("Dispatch from 8 threads", THREADS, table(HEADER, rows(threads, SENDING))),
        ("Idle latency", LATENCY.format(repeated), table(["", "p50", "p99"], latency_rows(latencies))),
    ]
    added = consumed[BUS].added_cpu(consumed[RAW])
    text = (
        f"RabbitMQ {version}, classic durable queues, persistent messages. Median of {rounds} alternating rounds, each "
        f"in a new process. {pinned} RabbitMQ is not pinned. Ratio: the speed of the bus to that of the other.\n\n"
        f"When it consumes, the bus adds {added:.1f} µs of processor time (user and system) per message to pika with "
        "acknowledgements in hundreds.\n\n"
        + "\n\n".join(f"## {title}\n\n{explanation}\n\n{figures}" for title, explanation, figures in sections)
        + f"\n\n{SYMFONY}"
    )
    run.report("RabbitMQ", text, ["pika", "dramatiq", "celery", "kombu", "faststream"])


HEADER = ("", "messages/s", "µs per message", "spread", "µs of processor", "ratio")


def rows(figures: Mapping[str, Figure], names: Mapping[str, str]) -> list[list[str]]:
    ours = figures[BUS]
    return [
        [
            names[name],
            f"{figure.per_second:,.0f}",
            f"{figure.wall:.1f}",
            figure.spread,
            f"{figure.cpu:.1f}",
            f"{figure.wall / ours.wall:.2f}",
        ]
        for name, figure in figures.items()
    ]


def latency_rows(latencies: Mapping[str, Sequence[Mapping[str, float]]]) -> list[list[str]]:
    return [
        [NAMES[name], *(f"{statistics.median(each[key] for each in runs) * 1e3:.2f}" for key in ("p50", "p99"))]
        for name, runs in latencies.items()
    ]


if __name__ == "__main__":
    main()
