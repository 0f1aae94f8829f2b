"""Twenty thousand generated messages among good ones: these are handled, and those are stored as they came."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing

import pytest

from bus import headers as header_names
from bus.envelope import Envelope
from bus.stamps import PeekedStamp
from tests.faults.deployment import Deployment
from tests.faults.figures import Figures
from tests.faults.generated import MARK, Generated, good, hostile
from tests.faults.ledger import DONE
from tests.faults.sizes import FUZZED_SLICES

HOSTILE = 20_000  # in one slice
SLICE = HOSTILE * 3 // 2  # every third message is a good one
PATIENCE = 300.0

# What the bus itself writes on a failed message, over whatever stood there.
WRITTEN = frozenset(
    {
        *(
            f"{header_names.STAMP_PREFIX}{header_names.SYMFONY_STAMPS}{name}"
            for name in (
                "ErrorDetailsStamp",
                "SentToFailureTransportStamp",
                "RedeliveryStamp",
                "DelayStamp",
                "TransportMessageIdStamp",
            )
        ),
        header_names.MESSAGE_ID,
        header_names.ORIGIN,
        header_names.POSTPONED,
        *header_names.OF_ONE_DELIVERY,
    }
)


def insert(deployment: Deployment, messages: Iterable[Generated]) -> None:
    """Write rows past the driver, as any other program could."""
    now = "2026-01-01 00:00:00.000"
    rows = [
        # A body that is no text stands in the column as bytes.
        (each.body, each.headers.encode("utf-8", "surrogatepass"), "async", now, now)
        for each in messages
    ]
    with closing(sqlite3.connect(deployment.database)) as connection, connection:
        connection.executemany(
            "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) "
            "VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)",
            rows,
        )


def stored(envelope: Envelope) -> tuple[int, bytes, Mapping[str, str]]:
    """Return which generated message a failed one was, its body and its headers."""
    peeked = envelope.last(PeekedStamp)
    assert peeked is not None
    raw = peeked.headers.get(header_names.RAW_HEADERS, "")
    found = re.search(rf"{MARK} (\d+)", raw)
    mark = peeked.headers.get(MARK) or (found[1] if found else "")
    assert mark.isdecimal(), f"it is not known which message this was: {peeked}"
    return int(mark), peeked.body, peeked.headers


@pytest.mark.parametrize("slices", FUZZED_SLICES)
def test_generated_messages_are_stored_as_they_are_and_their_neighbours_handled(
    slices: int, deployment_in_memory: Deployment, figures: Figures
) -> None:
    deployment = deployment_in_memory
    deployment.messenger.set_up()
    seconds = 0.0
    for part in range(slices):
        chance = random.Random(f"{figures.seed}/{part}")
        numbers = range(part * SLICE, (part + 1) * SLICE)
        generated = [hostile(chance, number) if number % 3 else good(number) for number in numbers]
        insert(deployment, generated)
        started = time.monotonic()
        worker = deployment.worker()
        deployment.wait_until_empty(worker, PATIENCE)
        seconds += time.monotonic() - started
        worker.stop()
        handled_anyway, failed = check(deployment, generated, worker.pid)
        figures.add(
            "R8 generated messages",
            good=SLICE - HOSTILE,
            generated=HOSTILE,
            handled_anyway=handled_anyway,
            stored_as_failed=failed,
            lost=0,
            seconds=seconds,
        )


def check(deployment: Deployment, generated: list[Generated], pid: int) -> tuple[int, int]:
    """Compare what was generated with what came out; return how many turned out good, and how many were stored."""
    by_number = {each.number: each for each in generated}
    effects = deployment.journal.effects()
    mine = {each.number for each in generated if each.good}
    assert {number for number in effects if number in by_number} == mine
    assert all(effects[number] == 1 for number in mine)
    assert {event.pid for event in deployment.journal.of(DONE) if event.number in by_number} == {pid}

    failed = deployment.failed_envelopes()
    seen: set[int] = set()
    for envelope in failed:
        number, body, headers = stored(envelope)
        original = by_number[number]
        assert number not in seen, f"message {number} was stored twice"
        seen.add(number)
        assert not original.good, f"good message {number} was stored as failed"
        assert body == original.body
        check_headers(original, headers)
    must_fail = {each.number for each in generated if each.good is False}
    assert must_fail <= seen, f"handled, or lost: {[by_number[each] for each in list(must_fail - seen)[:5]]}"
    seen_by_handler = sum(1 for event in deployment.journal.of("seen") if event.pid == pid)
    assert len(seen) + seen_by_handler == len(generated) - len(mine), "one was lost or handled twice"
    remove_failed(deployment)
    return seen_by_handler, len(seen)


def check_headers(original: Generated, headers: Mapping[str, str]) -> None:
    if original.fields is None:
        assert headers[header_names.RAW_HEADERS] == original.headers
        return
    kept = {name: headers.get(name) for name in original.fields if name not in WRITTEN}
    assert kept == {name: value for name, value in original.fields.items() if name not in WRITTEN}


def remove_failed(deployment: Deployment) -> None:
    deployment.execute("DELETE FROM messenger_messages WHERE queue_name = 'failed'")
