"""One deployment of the application: a folder with a configuration, its databases, its workers, its ledger."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from bus import Messenger, Stamp, TransportMessageIdStamp
from bus.config.loader import load
from bus.envelope import Envelope
from bus.transports.base import Counts
from bus.transports.transport import Transport
from tests.faults.application import JOURNAL_VARIABLE, AsyncJob, Job
from tests.faults.ledger import Journal, Ledger, Totals
from tests.faults.processes import Process, Processes
from tests.faults.waiting import PATIENCE, wait_until

CONFIGURATION = """
messenger:
  imports: [tests.faults.application]
  failure_transport: failed
  transports:
    async:
      dsn: 'sqlite:///bus.db?queue_name=async'
      retry_strategy: {{ max_retries: 3, delay: 20, multiplier: 1, jitter: 0 }}
    failed: 'sqlite:///{failed}?queue_name=failed'
  routing:
    'tests.faults.application.*': async
"""

_BATCH = 500  # messages that are dispatched together
_PAGE = 1000  # failed messages that are read together


class Deployment:
    """What a test of the faults works with."""

    def __init__(self, folder: Path, failed_database: str = "bus.db", configuration: str | None = None) -> None:
        self.folder = folder
        self.database = folder / "bus.db"
        self.failed_database = folder / failed_database
        self._configuration = configuration or CONFIGURATION
        (folder / "messenger.yaml").write_text(self._configuration.format(failed=failed_database))
        journal = folder / "journal.txt"
        self.journal = Journal(journal)
        self.ledger = Ledger(self.journal)
        self.processes = Processes(folder, {JOURNAL_VARIABLE: str(journal)})
        self.messenger = self._messenger()

    def _messenger(self) -> Messenger:
        # The paths of this configuration are relative to the folder; the test's process stays where it is.
        text = self._configuration.format(failed=self.failed_database).replace("///bus.db", f"///{self.database}")
        configuration = self.folder / "absolute.yaml"
        configuration.write_text(text)
        return Messenger(load(configuration, environment={}))

    # --- sending ---

    def publish(self, jobs: Iterable[Job | AsyncJob], stamps: Sequence[Stamp] = ()) -> None:
        """Dispatch jobs and enter them into the ledger."""
        jobs = list(jobs)
        for start in range(0, len(jobs), _BATCH):
            batch = jobs[start : start + _BATCH]
            numbers = {job.number for job in batch}
            self.ledger.attempted |= numbers
            self.messenger.bus.dispatch_many(batch, stamps)
            self.ledger.acknowledged |= numbers

    # --- working ---

    def worker(self, *arguments: str, failpoints: str = "") -> Process:
        """Start ``bus consume async``."""
        variables = {"BUS_FAILPOINTS": failpoints} if failpoints else {}
        return self.processes.start("-m", "bus", "consume", "async", *arguments, **variables)

    def drain(self, within: float = PATIENCE) -> None:
        """Have a worker handle everything that waits, delayed messages too, and stop it."""
        worker = self.worker("--concurrency", "8")
        worker.wait_for_line("Worker started")
        self.wait_until_empty(worker, within)
        worker.stop()

    def wait_until_empty(self, worker: Process | None = None, within: float = PATIENCE) -> None:
        """Wait until no message waits, is delayed or in flight; the worker must live meanwhile."""

        def is_empty() -> bool:
            assert worker is None or worker.alive, worker.output
            return self.is_empty()

        wait_until(is_empty, "the transport is empty", within, every=0.05)

    def is_empty(self) -> bool:
        counts = self.counts()
        return not (counts.ready or counts.delayed or counts.in_flight or counts.parked)

    def wait_for(self, what: str, number: int | None = None, count: int = 1, within: float = PATIENCE) -> None:
        """Wait until the journal has so many such events."""
        wait_until(
            lambda: self.journal.count(what, number) >= count, f"{count} times {what} {number or ''} is noted", within
        )

    # --- looking ---

    @property
    def transport(self) -> Transport:
        return self.messenger.transport("async")

    def counts(self, name: str = "async") -> Counts:
        counts = self.messenger.transport(name).counts()
        assert counts is not None
        return counts

    def failed_envelopes(self) -> list[Envelope]:
        """Return what stands in the failure transport."""
        return list(self._failed_envelopes())

    def _failed_envelopes(self) -> Iterator[Envelope]:
        after: str | int | None = None
        while True:
            page = self.messenger.transport("failed").peek(_PAGE, after)
            if not page:
                return
            yield from page
            after = transport_id_of(page[-1])

    def failed(self) -> list[int]:
        """Return the numbers of the messages in the failure transport, sorted; one that is there twice comes twice."""
        numbers = []
        for envelope in self.failed_envelopes():
            assert isinstance(envelope.message, Job | AsyncJob), envelope
            numbers.append(envelope.message.number)
        return sorted(numbers)

    def totals(self) -> Totals:
        return self.ledger.totals(self.failed())

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement on the database of the transport."""
        with closing(sqlite3.connect(self.database, timeout=10)) as connection, connection:
            return connection.execute(statement).fetchall()

    def close(self) -> None:
        self.processes.end_all()
        self.messenger.close()


def transport_id_of(envelope: Envelope) -> str | int:
    stamp = envelope.last(TransportMessageIdStamp)
    assert stamp is not None
    return stamp.id


@contextmanager
def write_lock(database: Path) -> Iterator[None]:
    """Hold the one write lock of a SQLite database, as another program would."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def hold_for(seconds: float) -> None:
    """Let a fault last. This is its length, not a wait for something."""
    time.sleep(seconds)
