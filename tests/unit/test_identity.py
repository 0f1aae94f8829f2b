from __future__ import annotations

import os
import re
import threading
import time
import uuid

import pytest

from bus.identity import uuid7


def milliseconds_of(text: str) -> int:
    return uuid.UUID(text).int >> 80


def test_an_id_is_a_version_7_uuid_in_canonical_form() -> None:
    for _ in range(1_000):
        text = uuid7()
        assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text)
        assert uuid.UUID(text).version == 7
        assert uuid.UUID(text).variant == uuid.RFC_4122


def test_an_id_begins_with_the_time_of_its_creation() -> None:
    before = time.time_ns() // 1_000_000
    made = milliseconds_of(uuid7())
    assert before <= made <= time.time_ns() // 1_000_000


def test_an_id_of_a_later_millisecond_sorts_behind_earlier_ones() -> None:
    first = uuid7()
    while time.time_ns() // 1_000_000 == milliseconds_of(first):
        pass
    assert uuid7() > first


@pytest.mark.parametrize("milliseconds", [0, 1, 0xFFFF, 0x10000, 0xFFFF_FFFF_FFFF])
def test_any_time_has_its_place(milliseconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: milliseconds * 1_000_000)
    assert milliseconds_of(uuid7()) == milliseconds
    assert len(uuid7()) == 36


def test_many_threads_get_different_ids() -> None:
    made: list[str] = []
    barrier = threading.Barrier(8)

    def run() -> None:
        barrier.wait()
        made.extend([uuid7() for _ in range(2_000)])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_makes_other_ids_than_its_parent() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(uuid7()[14:] for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = pipe.read().decode()
    # The random parts alone, without the time.
    assert not any(uuid7()[14:] in theirs for _ in range(20))
    assert len(theirs) == 20 * 22
