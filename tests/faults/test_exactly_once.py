"""A worker dies at every step of a handler in a transaction: each effect happens once, each message gets through."""

from __future__ import annotations

import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

import pytest

from bus import MessageIdStamp, Messenger
from bus.config.loader import load
from tests.faults.application import JOURNAL_VARIABLE
from tests.faults.figures import Figures
from tests.faults.ledger import DONE, Journal
from tests.faults.orders import Invoice, Letter, Order, Parcel
from tests.faults.processes import Process, Processes
from tests.faults.sizes import EXACTLY_ONCE_KILLS, EXACTLY_ONCE_ROUNDS, Kills
from tests.faults.waiting import wait_until

CONFIGURATION = """
messenger:
  imports: [tests.faults.orders]
  connections: {{ default: 'sqlite:///{folder}/shop.db', other: 'sqlite:///{folder}/other.db' }}
  default_bus: transactional
  buses:
    transactional: {{ middleware: [idempotency, transaction] }}
    plain: {{ middleware: [idempotency] }}
  failure_transport: failed
  transports:
    async:
      dsn: 'sql://default?queue_name=async'
      retry_strategy: {{ max_retries: 3, delay: 20, multiplier: 1, jitter: 0 }}
    invoices: 'sql://default?queue_name=invoices'
    parcels: 'sql://other?queue_name=parcels'
    failed: 'sql://default?queue_name=failed'
  routing:
    fault.order: async
    fault.letter: async
    fault.invoice: invoices
    fault.parcel: parcels
"""


def steps(*quick: str, full: tuple[str, ...]) -> list[object]:
    return [*quick, *(pytest.param(step, marks=pytest.mark.full) for step in full)]


STEPS = steps(
    "claimed",
    "handler_done",
    "before_commit",
    "after_commit",
    "relayed",
    "before_settle",
    full=("received", "handler_start", "handler_end", "after_settle"),
)
STEPS_WITHOUT_TRANSACTION = steps(
    "claimed", "handler_done", "held_sent", full=("handler_end", "before_settle", "after_settle")
)
HITS = (2, 5, 3, 9)
MIXED = (*["nothing"] * 8, *["fail"] * 2)


class Shop:
    """A folder with two databases, the workers on them, and what happened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        configuration = folder / "messenger.yaml"
        configuration.write_text(CONFIGURATION.format(folder=folder))
        self.journal = Journal(folder / "journal.txt")
        self.processes = Processes(folder, {JOURNAL_VARIABLE: str(self.journal.path)})
        self.messenger = Messenger(load(configuration, environment={}))
        with closing(sqlite3.connect(folder / "shop.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE effects (number INTEGER)")

    def publish(self, messages: Iterable[Order | Letter], bus: str = "transactional", copies: int = 1) -> None:
        """Dispatch each message, several times under the same id if asked for."""
        envelopes = self.messenger.buses[bus].dispatch_many(messages)
        for _ in range(copies - 1):
            self.messenger.buses[bus].dispatch_many(envelopes)

    def worker(self, *arguments: str, failpoints: str = "") -> Process:
        variables = {"BUS_FAILPOINTS": failpoints} if failpoints else {}
        return self.processes.start("-m", "bus", "consume", "async", *arguments, **variables)

    def kill_at(self, step: str, rounds: int) -> int:
        """Let workers die at a step, one after the other, and a last one do the rest; return how many died."""
        kills = 0
        for hit in islice(cycle(HITS), rounds):
            worker = self.worker("--fetch-size", "4", failpoints=f"{step}=kill9@{hit}")
            wait_until(lambda worker=worker: not worker.alive or self.is_empty(), "it dies or is done", every=0.05)  # type: ignore[misc]
            worker.send(signal.SIGTERM)
            kills += worker.wait() == -signal.SIGKILL
        self.drain()
        return kills

    def drain(self) -> None:
        worker = self.worker()
        wait_until(self.is_empty, "everything is handled", within=90, every=0.05)
        self.age_the_outbox()
        wait_until(self.is_relayed, "everything is relayed", within=90, every=0.05)
        worker.stop()

    def age_the_outbox(self) -> None:
        """Let 15 seconds pass for the rows that dead writers left."""
        if self.query("shop.db", "SELECT 1 FROM sqlite_master WHERE name = 'messenger_outbox'"):
            self.query("shop.db", "UPDATE messenger_outbox SET due = 0")

    def is_empty(self) -> bool:
        counts = self.messenger.transport("async").counts()
        assert counts is not None
        return not (counts.ready or counts.delayed or counts.in_flight)

    def is_relayed(self) -> bool:
        has_outbox = self.query("shop.db", "SELECT 1 FROM sqlite_master WHERE name = 'messenger_outbox'")
        return not has_outbox or self.query("shop.db", "SELECT count(*) FROM messenger_outbox") == [(0,)]

    def query(self, database: str, statement: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / database, timeout=30)) as connection, connection:
            return connection.execute(statement).fetchall()

    def effects(self) -> Counter[object]:
        return Counter(number for (number,) in self.query("shop.db", "SELECT number FROM effects"))

    def sent(self, transport: str) -> Counter[tuple[str, int]]:
        """Count what reached a transport, by message id and number."""
        found: Counter[tuple[str, int]] = Counter()
        for envelope in self.messenger.transport(transport).peek(100_000) or ():
            assert isinstance(envelope.message, Invoice | Parcel)
            stamp = envelope.last(MessageIdStamp)
            assert stamp is not None
            found[stamp.id, envelope.message.number] += 1
        return found

    def failed(self) -> int:
        return len(self.messenger.transport("failed").peek(1000) or ())

    def close(self) -> None:
        self.processes.end_all()
        self.messenger.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def numbers_of(sent: Counter[tuple[str, int]]) -> Counter[object]:
    """Count the different messages of each number; a message that was sent twice has the same id."""
    return Counter(number for _, number in sent)


def once(count: int) -> Counter[object]:
    return Counter(range(count))


@pytest.mark.parametrize("rounds", EXACTLY_ONCE_ROUNDS)
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_a_step_of_a_transaction_has_each_effect_once(
    step: str, rounds: int, shop: Shop, figures: Figures
) -> None:
    count = 16 * rounds
    shop.publish(Order(number, MIXED[number % len(MIXED)], 1) for number in range(count))

    kills = shop.kill_at(step, rounds)

    assert kills >= 1
    assert shop.failed() == 0
    assert shop.effects() == once(count)
    assert shop.sent("invoices").total() == count, "a message of the same database is part of the transaction"
    assert numbers_of(shop.sent("invoices")) == once(count)
    parcels = shop.sent("parcels")
    figures.add(f"R4 SIGKILL at {step} in a transaction", effects=shop.effects().total(), orders=count, kills=kills)
    assert numbers_of(parcels) == once(count), "one message for each order, whatever its copies"
    assert parcels.total() - count <= kills


@pytest.mark.parametrize("rounds", EXACTLY_ONCE_ROUNDS)
@pytest.mark.parametrize("step", STEPS_WITHOUT_TRANSACTION)
def test_a_handler_without_a_transaction_repeats_at_most_one_effect_per_kill(
    step: str, rounds: int, shop: Shop
) -> None:
    count = 16 * rounds
    shop.publish((Letter(number) for number in range(count)), "plain")

    kills = shop.kill_at(step, rounds)

    effects = Counter(event.number for event in shop.journal.events() if event.what == DONE)
    assert kills >= 1
    assert shop.failed() == 0
    assert set(effects) == set(range(count))
    assert effects.total() - count <= kills


@pytest.mark.parametrize("size", EXACTLY_ONCE_KILLS)
def test_duplicates_while_workers_are_killed_at_random_have_no_second_effect(
    size: Kills, shop: Shop, figures: Figures
) -> None:
    chance = random.Random(figures.seed)
    shop.publish((Order(number) for number in range(size.messages)), copies=2)
    workers = [shop.worker("--fetch-size", "10") for _ in range(3)]
    for kill in range(size.kills):
        target = len(shop.effects()) + chance.randint(1, max(1, size.messages // size.kills))
        wait_until(lambda target=target: len(shop.effects()) >= target or shop.is_empty(), "work goes on")  # type: ignore[misc]
        workers[kill % 3].kill()
        workers[kill % 3] = shop.worker("--fetch-size", "10")
    for worker in workers:
        worker.kill()
    shop.drain()

    figures.add(
        "R4 random SIGKILL with duplicates", effects=shop.effects().total(), orders=size.messages, kills=size.kills
    )
    assert shop.effects() == once(size.messages)
    assert numbers_of(shop.sent("invoices")) == once(size.messages)
    assert numbers_of(shop.sent("parcels")) == once(size.messages)
