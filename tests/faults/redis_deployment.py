"""The application on Redis: its messages, its failed ones and what its workers agree on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bus import MessageIdStamp, Stamp, TransportError
from bus.identity import uuid7
from tests.faults.application import Job
from tests.faults.deployment import Deployment
from tests.faults.ledger import DONE
from tests.faults.processes import Process
from tests.faults.waiting import PATIENCE, wait_until

CONFIGURATION = """
messenger:
  imports: [tests.faults.application]
  failure_transport: failed
  store: '<url>'
  transports:
    async:
      dsn: '<url>'
      options: <options>
      retry_strategy: {{ max_retries: 3, delay: 100, multiplier: 1, jitter: 0 }}
    failed: '<url>/failed'
  routing:
    'tests.faults.application.*': async
"""
FETCH_SIZE = 10


class RedisDeployment(Deployment):
    """``url``: of the server, or of a proxy before it."""

    def __init__(self, folder: Path, url: str, **options: object) -> None:
        written = json.dumps({"stream": "async", **options}).replace("{", "{{").replace("}", "}}")
        super().__init__(folder, configuration=CONFIGURATION.replace("<url>", url).replace("<options>", written))
        self._published = threading.Event()

    def is_empty(self) -> bool:
        """Ask the server; one that does not answer is not known to be empty."""
        try:
            return super().is_empty()
        except TransportError:
            return False

    def publish_persistently(self, jobs: Iterable[Job], pause: float = 0.0) -> None:
        """Dispatch jobs one by one, each under its id until it is accepted."""
        for job in jobs:
            self.ledger.attempted.add(job.number)
            stamps = (MessageIdStamp(uuid7()),)
            wait_until(lambda job=job, stamps=stamps: self._is_sent(job, stamps), "a message is accepted")
            self.ledger.acknowledged.add(job.number)
            self._published.wait(pause)

    def _is_sent(self, job: Job, stamps: Sequence[Stamp]) -> bool:
        try:
            self.messenger.bus.dispatch(job, stamps)
        except TransportError:
            return False
        return True

    @contextmanager
    def under_load(self, jobs: Sequence[Job], *workers: Sequence[str], pause: float = 0.002) -> Iterator[list[Process]]:
        """Publish jobs and run workers while the block causes faults; then let everything be handled.

        The block may replace workers in the list that it is given; they are stopped in the end.
        """
        running = [self.worker("--fetch-size", str(FETCH_SIZE), *each) for each in workers]
        for worker in running:
            worker.wait_for_line("Worker started")
        publisher = threading.Thread(target=self.publish_persistently, args=(jobs, pause), name="publisher")
        publisher.start()
        try:
            yield running
        finally:
            publisher.join()
        self.wait_until_empty(within=3 * PATIENCE)
        for worker in running:
            worker.stop()

    def wait_until_handled(self, count: int) -> None:
        """Wait until so many effects are noted."""
        wait_until(lambda: self.journal.count(DONE) >= count, f"{count} are handled", within=3 * PATIENCE, every=0.05)
