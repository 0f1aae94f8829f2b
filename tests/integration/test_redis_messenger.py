"""A messenger on Redis: outbox, deduplication, failure transport, fork."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bus import (
    DeduplicatedStamp,
    DeduplicateStamp,
    ErrorDetailsStamp,
    Messenger,
    MessengerConfig,
    RetryPolicy,
    TransportConfig,
    TransportMessageIdStamp,
    UnrecoverableError,
    WorkerOptions,
    message,
)
from tests.servers.redis import Keys


@message("test.redis.placed")
@dataclass(frozen=True)
class Placed:
    number: int


class Shop:
    """Messengers that share what stands on one Redis."""

    def __init__(self, keys: Keys, folder: Path) -> None:
        self.keys, self.folder = keys, folder
        self.handled: list[int] = []
        self.fails = True
        self._opened: list[Messenger] = []

    def _handle(self, placed: Placed) -> None:
        if placed.number < 0 and self.fails:
            raise UnrecoverableError("no")
        self.handled.append(placed.number)

    def open(self, outbox: str | None = None) -> Messenger:
        config = MessengerConfig(
            transports={
                "async": TransportConfig(dsn=self.keys.dsn("async"), outbox=outbox, retry=RetryPolicy(delay=10)),
                "failed": TransportConfig(dsn=self.keys.dsn("failed")),
            },
            routing={"test.redis.placed": ("async",)},
            failure_transport="failed",
            store=f"{self.keys.url}?prefix={self.keys.prefix}",
            connections={"default": f"sqlite:///{self.folder}/bus.db"},
        )
        self._opened.append(Messenger(config, handlers=[self._handle]))
        return self._opened[-1]

    def consume(self, messenger: Messenger) -> None:
        messenger.worker(["async"], WorkerOptions(stop_when_empty=True)).run()

    def close(self) -> None:
        for each in self._opened:
            each.close()


@pytest.fixture
def shop(redis_keys: Keys, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(redis_keys, tmp_path)
    yield shop
    shop.close()


def test_what_the_outbox_takes_arrives_on_redis(shop: Shop) -> None:
    messenger = shop.open(outbox="default")

    messenger.dispatch(Placed(1))
    shop.consume(messenger)

    assert shop.handled == [1]


def test_a_message_is_dropped_while_another_process_has_its_key_and_the_caller_learns_it(shop: Shop) -> None:
    here, there = shop.open(), shop.open()
    first = here.dispatch(Placed(1), [DeduplicateStamp("order-1")])
    second = there.dispatch(Placed(2), [DeduplicateStamp("order-1")])

    assert first.last(DeduplicatedStamp) is None
    assert second.last(DeduplicatedStamp) is not None
    shop.consume(there)
    assert shop.handled == [1]
    here.dispatch(Placed(3), [DeduplicateStamp("order-1")])
    shop.consume(here)
    assert shop.handled == [1, 3]


def test_failed_messages_are_listed_found_retried_and_removed(shop: Shop) -> None:
    messenger = shop.open()
    for number in (-1, -2, -3):
        messenger.dispatch(Placed(number))
    shop.consume(messenger)
    failed = messenger.transport("failed")

    listed = failed.peek(10)
    assert listed is not None
    assert [each.message for each in listed] == [Placed(-1), Placed(-2), Placed(-3)]
    details = listed[0].last(ErrorDetailsStamp)
    assert details is not None
    assert details.exception_message == "no"

    ids = [each.last(TransportMessageIdStamp).id for each in listed]  # type: ignore[union-attr]
    removed = failed.take(ids[1])
    assert removed is not None
    failed.ack(removed)
    failed.flush()
    parked = failed.take(ids[2])
    assert parked is not None
    failed.park(parked)
    failed.flush()

    again = failed.peek(10)
    assert again is not None
    assert [each.message for each in again] == [Placed(-1), Placed(-3)]
    counts = failed.counts()
    assert counts is not None
    assert (counts.ready, counts.parked, counts.in_flight) == (1, 1, 0)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_neither_settles_nor_gives_back_what_its_parent_holds(shop: Shop) -> None:
    messenger = shop.open()
    messenger.dispatch(Placed(1))
    transport = messenger.transport("async")
    (held,) = transport.get(10)
    child = os.fork()
    if child == 0:
        try:
            transport.close()
            messenger.dispatch(Placed(2))
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    transport.ack(held)
    transport.flush()
    counts = transport.counts()

    assert counts is not None
    assert (counts.ready, counts.in_flight) == (1, 0)
