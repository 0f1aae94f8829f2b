"""Settlements are collected, carried out together, and never forgotten."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from bus import aio
from bus.envelope import Envelope
from bus.errors import ConnectionLostError, SendRefused, TransportError
from bus.stamps import MessageIdStamp
from bus.transports import coalescing
from bus.transports.base import Ack, Claim, Settlement
from bus.transports.coalescing import SettlementBuffer

DEADLINE = 10.0


class Server:
    """Carries settlements out, or fails as told; remembers every batch, tried or done."""

    def __init__(self) -> None:
        self.tried: list[list[Claim]] = []
        self.settled: list[Claim] = []
        self.threads: list[int] = []
        self.errors: list[Exception] = []
        self.refused: set[Claim] = set()
        self.lost: set[Claim] = set()
        self.gate: threading.Event | None = None
        self.inside = 0
        self.overlapped = False

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        self.inside += 1
        self.overlapped = self.overlapped or self.inside > 1
        try:
            claims = [each.claim for each in batch]
            self.tried.append(claims)
            self.threads.append(threading.get_ident())
            if self.gate is not None:
                self.gate.wait(DEADLINE)
            if self.errors:
                raise self.errors.pop(0)
            if any(claim in self.refused for claim in claims):
                raise SendRefused("too large for this server")
            self.settled += [claim for claim in claims if claim not in self.lost]
            return [claim for claim in claims if claim in self.lost]
        finally:
            self.inside -= 1


def claims(count: int) -> list[Claim]:
    return [Claim(number, 1, "queue") for number in range(count)]


def message(number: str | int) -> Envelope:
    return Envelope(object(), (MessageIdStamp(f"id-{number}"),))


def add(buffer: SettlementBuffer, *held: Claim) -> None:
    for claim in held:
        buffer.add(Ack(claim), message(claim.transport_id))


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bus-settle-orders"]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def buffer(server: Server) -> Iterator[SettlementBuffer]:
    buffer = SettlementBuffer("orders", server.settle)
    yield buffer
    server.errors.clear()
    server.refused.clear()
    buffer.close(DEADLINE)
    assert not timers()


def test_half_a_window_leaves_at_once_and_together(server: Server, buffer: SettlementBuffer) -> None:
    buffer.window = 10
    held = claims(5)
    add(buffer, *held)
    assert server.tried == [held]
    assert len(buffer) == 0


def test_a_window_of_one_settles_each_message_at_once(server: Server, buffer: SettlementBuffer) -> None:
    buffer.window = 1
    first, second = claims(2)
    add(buffer, first, second)
    assert server.tried == [[first], [second]]
    assert not timers()


def test_less_than_half_a_window_leaves_by_itself(server: Server, buffer: SettlementBuffer) -> None:
    held = claims(3)
    add(buffer, *held)
    eventually(lambda: server.settled == held)
    assert threading.get_ident() not in server.threads


def test_the_oldest_settlement_waits_for_20_ms_and_not_for_ever_newer_ones(
    server: Server, buffer: SettlementBuffer
) -> None:
    buffer.window = 1_000_000
    (first,) = claims(1)
    add(buffer, first)
    number = 1
    while first not in server.settled:
        # About 40 are added in 20 ms.
        assert number < 1000
        add(buffer, Claim(number, 1, "queue"))
        number += 1
        time.sleep(0.0005)


def test_there_is_no_thread_before_the_first_settlement_and_none_when_there_is_nothing_to_do(
    server: Server, buffer: SettlementBuffer
) -> None:
    assert not timers()
    add(buffer, *claims(1))
    assert len(timers()) == 1
    eventually(lambda: server.settled)
    eventually(lambda: not timers())


def test_a_new_timer_serves_what_comes_after_the_old_one_ended(server: Server, buffer: SettlementBuffer) -> None:
    first, second = claims(2)
    add(buffer, first)
    eventually(lambda: server.settled and not timers())
    add(buffer, second)
    eventually(lambda: server.settled == [first, second])


def test_where_no_thread_can_be_had_it_is_settled_at_once(
    server: Server, buffer: SettlementBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    held = claims(1)
    add(buffer, *held)
    assert server.settled == held


def test_flush_returns_when_everything_is_settled(server: Server, buffer: SettlementBuffer) -> None:
    held = claims(3)
    add(buffer, *held)
    buffer.flush()
    assert server.settled == held
    assert len(buffer) == 0


def test_flush_waits_for_what_another_thread_is_settling(server: Server, buffer: SettlementBuffer) -> None:
    server.gate = threading.Event()
    held = claims(1)
    add(buffer, *held)
    eventually(lambda: server.tried)
    assert len(buffer) == 1
    flushed = threading.Thread(target=buffer.flush)
    flushed.start()
    assert flushed.is_alive()
    server.gate.set()
    flushed.join(DEADLINE)
    assert server.settled == held


def test_only_the_first_settlement_of_a_claim_counts(server: Server, buffer: SettlementBuffer) -> None:
    held = claims(1)
    add(buffer, *held)
    add(buffer, *held)
    buffer.flush()
    add(buffer, *held)
    buffer.flush()
    assert server.tried == [held]


def test_a_settlement_that_fails_for_a_while_succeeds_exactly_once(server: Server, buffer: SettlementBuffer) -> None:
    server.errors = [ConnectionLostError("gone"), ConnectionLostError("still gone")]
    held = claims(3)
    add(buffer, *held)
    eventually(lambda: not len(buffer))
    assert server.settled == held
    assert sum(held[0] in batch for batch in server.tried) == 3


def test_what_failed_is_tried_again_before_what_came_later(server: Server, buffer: SettlementBuffer) -> None:
    server.errors = [ConnectionLostError("gone")]
    first, second = claims(2)
    add(buffer, first)
    eventually(lambda: server.tried)
    add(buffer, second)
    eventually(lambda: len(server.settled) == 2)
    assert server.settled == [first, second]


def test_nothing_is_tried_during_the_pause_after_a_lost_connection(server: Server, buffer: SettlementBuffer) -> None:
    server.errors = [ConnectionLostError("gone") for _ in range(1000)]
    buffer.window = 2
    held = claims(200)
    started = time.monotonic()
    for claim in held:
        add(buffer, claim)
        buffer.flush()
    # 0.1 s, 0.2 s, ... lie between two attempts, less a quarter of jitter.
    assert len(server.tried) <= 2 + (time.monotonic() - started) / 0.075
    assert len(buffer) == 200


def test_a_failing_settlement_is_logged_as_something_that_is_tried_again(
    server: Server, buffer: SettlementBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    server.errors = [ConnectionLostError("gone")]
    add(buffer, *claims(2))
    eventually(lambda: len(server.settled) == 2)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        'Settling 2 messages of "orders" failed and is tried again: ConnectionLostError: gone'
    )


def test_a_bug_in_a_driver_is_logged_with_its_traceback_and_loses_no_settlement(
    server: Server, buffer: SettlementBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    server.errors = [ZeroDivisionError("bug")]
    held = claims(1)
    add(buffer, *held)
    eventually(lambda: server.settled == held)
    assert caplog.records[0].exc_info is not None


def test_a_message_that_the_server_does_not_take_does_not_hold_back_the_others(
    server: Server, buffer: SettlementBuffer
) -> None:
    held = claims(5)
    server.refused = {held[2]}
    add(buffer, *held)
    buffer.flush()
    assert server.settled == [held[0], held[1], held[3], held[4]]
    later = Claim("later", 1, "queue")
    add(buffer, later)
    buffer.flush()
    assert server.settled[-1] is later
    assert len(buffer) == 1
    server.refused.clear()
    eventually(lambda: held[2] in server.settled)
    assert len(server.settled) == len(set(server.settled)) == 6


def test_a_server_in_trouble_is_not_asked_for_each_message(
    server: Server, buffer: SettlementBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "_FIRST_PAUSE", 60.0)
    monkeypatch.setattr(coalescing, "_LONGEST_PAUSE", 60.0)
    held = claims(40)
    server.errors = [TransportError("timed out") for _ in range(100)]
    add(buffer, *held)
    buffer.flush()
    tried = len(server.tried)
    assert tried <= 5
    add(buffer, Claim("later", 1, "queue"))
    buffer.flush()
    assert len(server.tried) == tried
    assert len(buffer) == 41


def test_refused_messages_at_the_head_do_not_hold_back_the_others_for_ever(
    server: Server, buffer: SettlementBuffer
) -> None:
    held = claims(6)
    server.refused = set(held[:4])
    add(buffer, *held)
    eventually(lambda: server.settled == held[4:])


def test_a_settlement_is_dropped_when_its_claim_is_withdrawn_meanwhile(
    server: Server, buffer: SettlementBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    server.errors = [ConnectionLostError("gone")]
    kept, withdrawn = claims(2)
    add(buffer, kept, withdrawn)
    buffer.flush()
    withdrawn.withdraw()
    eventually(lambda: len(buffer) == 0)
    assert server.tried == [[kept, withdrawn], [kept]]
    assert [record.getMessage() for record in caplog.records if "lost" in record.getMessage()] == [
        'Claim lost: message id-1 of "orders" was settled too late; it is delivered again, or somebody else has it'
    ]


def test_a_lost_claim_is_said_once(server: Server, buffer: SettlementBuffer, caplog: pytest.LogCaptureFixture) -> None:
    kept, lost = claims(2)
    server.lost = {lost}
    add(buffer, kept, lost)
    buffer.flush()
    buffer.flush()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith('Claim lost: message id-1 of "orders"')
    assert (record.message_id, record.transport, record.attempt) == ("id-1", "orders", 0)  # type: ignore[attr-defined]
    assert len(buffer) == 0


def test_eight_threads_settle_each_claim_once_and_one_batch_at_a_time(server: Server, buffer: SettlementBuffer) -> None:
    buffer.window = 64
    held = claims(8000)
    server.errors = [ConnectionLostError("gone"), TransportError("locked")]

    def settle(mine: Sequence[Claim]) -> None:
        for claim in mine:
            add(buffer, claim)
            add(buffer, claim)

    threads = [threading.Thread(target=settle, args=(held[part::8],)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    eventually(lambda: len(buffer) == 0)
    assert len(server.settled) == 8000
    assert set(server.settled) == set(held)
    assert not server.overlapped


def test_settlements_of_a_greenlet_do_not_block_its_loop(server: Server, buffer: SettlementBuffer) -> None:
    buffer.window = 2
    held = claims(4)

    async def run() -> None:
        await aio.run_in_greenlet(add, buffer, *held)

    asyncio.run(run())
    eventually(lambda: len(server.settled) == 4)
    assert threading.get_ident() not in server.threads


def test_close_settles_what_waits_and_ends_the_timer(server: Server, buffer: SettlementBuffer) -> None:
    held = claims(3)
    add(buffer, *held)
    buffer.close(DEADLINE)
    assert server.settled == held
    assert not timers()
    buffer.close(DEADLINE)
    assert server.tried == [held]


def test_close_tries_again_without_waiting_for_the_pause(server: Server, buffer: SettlementBuffer) -> None:
    server.errors = [ConnectionLostError("gone") for _ in range(4)]
    held = claims(1)
    add(buffer, *held)
    eventually(lambda: len(server.tried) == 4)
    server.errors.clear()
    started = time.monotonic()
    buffer.close(DEADLINE)
    assert server.settled == held
    assert time.monotonic() - started < 0.5


def test_close_gives_up_at_its_deadline_and_says_which_messages_come_back(
    server: Server, buffer: SettlementBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    server.errors = [ConnectionLostError("gone") for _ in range(100)]
    add(buffer, *claims(1))
    started = time.monotonic()
    buffer.close(0.3)
    assert 0.25 < time.monotonic() - started < DEADLINE
    assert caplog.records[-1].getMessage() == (
        'Message id-0 of "orders" could not be settled before the transport was closed; it is delivered again'
    )
    assert len(buffer) == 0


def test_close_returns_in_time_while_a_settlement_hangs(server: Server, buffer: SettlementBuffer) -> None:
    server.gate = threading.Event()
    add(buffer, *claims(1))
    eventually(lambda: server.tried)
    started = time.monotonic()
    buffer.close(0.2)
    assert time.monotonic() - started < DEADLINE / 2
    server.gate.set()


def test_a_settlement_after_close_is_a_lost_claim(
    server: Server, buffer: SettlementBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    buffer.close(DEADLINE)
    add(buffer, *claims(1))
    assert not server.tried
    assert not timers()
    assert caplog.records[0].getMessage().startswith("Claim lost: message id-0")


def test_a_buffer_that_was_closed_can_be_opened_again(server: Server, buffer: SettlementBuffer) -> None:
    buffer.close(DEADLINE)
    buffer.open()
    held = claims(1)
    add(buffer, *held)
    eventually(lambda: server.settled == held)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_settles_its_own_claims_and_none_of_its_parent(server: Server, buffer: SettlementBuffer) -> None:
    buffer.window = 1000
    waiting, decided_in_the_child = claims(2)
    # As if another thread were inside at the moment of the fork.
    with buffer._lock, buffer._settling:
        buffer._waiting.append((Ack(waiting), message("waiting")))
        pid = os.fork()
        if pid == 0:
            own = Claim("own", 1, "queue")
            add(buffer, decided_in_the_child, own)
            buffer.flush()
            os._exit(0 if server.settled == [own] else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    buffer.flush()
    assert server.settled == [waiting]
