"""The application on RabbitMQ: two workers, two publishers, and a broker to which anything may happen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.deployment import Deployment
from tests.faults.ledger import DONE
from tests.faults.processes import Process
from tests.faults.waiting import PATIENCE, wait_until
from tests.servers.rabbitmq import RabbitMq

CONFIGURATION = """
messenger:
  imports: [tests.faults.application]
  failure_transport: failed
  transports:
    async:
      dsn: '<dsn>'
      options: <options>
      retry_strategy: {{ max_retries: 3, delay: 100, multiplier: 1, jitter: 0 }}
    failed: 'sqlite:///{failed}?queue_name=failed'
  routing:
    'tests.faults.application.*': async
"""

DEADLINE = 5.0  # seconds that a dispatch may take
ON_A_LOADED_MACHINE = 5.0  # seconds that are nobody's fault
RECOVERY = 30.0  # seconds
FETCH_SIZE = 10
FIRST_NUMBERS = (0, 1_000_000)  # of the publishers' messages


@dataclass(frozen=True)
class Load:
    """What a load came to. ``bound``: how many effects may be repeated. Times in seconds."""

    bound: int
    slowest_dispatch: float
    slowest_recovery: float


class RabbitDeployment(Deployment):
    """``port``: of a proxy before the broker."""

    def __init__(self, folder: Path, broker: RabbitMq, port: int | None = None, **options: object) -> None:
        self.broker = broker
        self.vhost = broker.make_vhost()
        configuration = CONFIGURATION.replace("<dsn>", broker.url(self.vhost, port) + "/jobs")
        written = json.dumps(options).replace("{", "{{").replace("}", "}}")
        super().__init__(folder, "failed.db", configuration.replace("<options>", written))

    def close(self) -> None:
        super().close()
        self.broker.delete_vhost(self.vhost)

    def is_empty(self) -> bool:
        """Ask the broker, twice: a message that goes from one queue to another may be in none for a moment."""
        if self.broker.messages(self.vhost):
            return False
        time.sleep(0.2)
        return not self.broker.messages(self.vhost)

    def publisher(self, first: int, pause: float) -> Process:
        """Start a program that dispatches one message after the other, for as long as it lives."""
        return self.processes.start("-m", "tests.faults.publisher", "messenger.yaml", "0", str(pause), str(first))

    def enter(self, publisher: Process) -> float:
        """Enter what an ended publisher said into the ledger; return the seconds that its slowest dispatch took."""
        slowest = 0.0
        for line in publisher.lines:
            assert line.startswith(("sent ", "refused ")), publisher.output[-4000:]
            result, number, seconds = line.split(maxsplit=3)[:3]
            self.ledger.attempted.add(int(number))
            if result == "sent":
                self.ledger.acknowledged.add(int(number))
            slowest = max(slowest, float(seconds))
        return slowest

    def under_load(self, faults: int, messages: int, fault: Callable[[], object], pause: float = 0.005) -> Load:
        """Cause a fault several times while messages are published and handled; let all be handled in the end.

        After each of them both publishers and workers must go on, by themselves and in time. ``pause``: seconds
        between two messages of a publisher.
        """
        workers = [self.worker("--fetch-size", str(FETCH_SIZE), "--concurrency", each) for each in ("1", "4")]
        for worker in workers:
            worker.wait_for_line("Worker started")
        publishers = [self.publisher(first, pause) for first in FIRST_NUMBERS]
        slowest_recovery = 0.0
        for number in range(faults):
            self._wait_until_handled((number + 1) * messages // (faults + 1))
            fault()
            slowest_recovery = max(slowest_recovery, self._recovery(publishers))
        wait_until(lambda: sum(map(sent, publishers)) >= messages, "all are sent", within=300, every=0.1)
        slowest_dispatch = 0.0
        for publisher in publishers:
            publisher.stop()
            slowest_dispatch = max(slowest_dispatch, self.enter(publisher))
        self.wait_until_empty(within=2 * PATIENCE)
        for worker in workers:
            worker.stop()
        in_flight = 1 + FETCH_SIZE + 4 + FETCH_SIZE + len(publishers)
        return Load(faults * in_flight, slowest_dispatch, slowest_recovery)

    def _wait_until_handled(self, count: int) -> None:
        wait_until(lambda: self.journal.count(DONE) >= count, f"{count} are handled", within=300, every=0.05)

    def _recovery(self, publishers: list[Process]) -> float:
        """Return the seconds until all publishers have sent something again, and something was handled."""
        sent_before, handled = [sent(each) for each in publishers], self.journal.count(DONE)

        def goes_on() -> bool:
            return self.journal.count(DONE) > handled and all(
                sent(each) > before for each, before in zip(publishers, sent_before, strict=True)
            )

        return wait_until(goes_on, "publishers and workers go on", within=RECOVERY + PATIENCE, every=0.05)


def sent(publisher: Process) -> int:
    """Return how many messages a publisher has sent."""
    assert publisher.alive, publisher.output[-4000:]
    return sum(line.startswith("sent ") for line in publisher.lines)
