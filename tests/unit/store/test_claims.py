from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bus import ConnectionLostError, MemoryStore, SqlStore, Store
from bus.store.claims import Claims, ClaimState
from bus.testing.clock import FakeClock

LEASE = 0.3


def claimed(claims: Claims, key: str) -> tuple[ClaimState, str]:
    token = claims.token()
    return claims.claim(key, token), token


def test_the_first_claim_is_new_and_the_next_in_progress(store: Store) -> None:
    claims = Claims(store)

    assert claimed(claims, "key")[0] is ClaimState.NEW
    assert claimed(claims, "key")[0] is ClaimState.IN_PROGRESS
    assert claimed(claims, "another")[0] is ClaimState.NEW


def test_another_user_of_the_store_in_this_process_finds_it_in_progress(store: Store) -> None:
    assert claimed(Claims(store), "key")[0] is ClaimState.NEW

    assert claimed(Claims(store), "key")[0] is ClaimState.IN_PROGRESS


def test_what_is_completed_is_done(store: Store) -> None:
    claims = Claims(store)
    _, token = claimed(claims, "key")

    assert claims.complete("key", token)

    assert claimed(claims, "key")[0] is ClaimState.DONE
    assert not claims.complete("key", token)


def test_what_is_completed_is_forgotten_after_its_time(store: Store, clock: FakeClock) -> None:
    claims = Claims(store)
    _, token = claimed(claims, "key")
    claims.complete("key", token, ttl=60)

    clock.advance(59)
    assert claimed(claims, "key")[0] is ClaimState.DONE

    clock.advance(2)
    assert claimed(claims, "key")[0] is ClaimState.NEW


def test_what_is_released_can_be_claimed_again(store: Store) -> None:
    claims = Claims(store)
    _, token = claimed(claims, "key")

    assert claims.release("key", token)

    assert claimed(claims, "key")[0] is ClaimState.NEW


def test_another_token_neither_completes_nor_releases_nor_renews(store: Store) -> None:
    claims = Claims(store)
    _, token = claimed(claims, "key")

    assert not claims.complete("key", claims.token())
    assert not claims.release("key", claims.token())
    assert not claims.renew("key", claims.token())
    assert claims.renew("key", token)
    assert claims.complete("key", token)


def test_one_of_many_threads_gets_each_claim(store: Store) -> None:
    claims = Claims(store)
    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            states = list(threads.map(lambda _, key=f"key {number}": claimed(claims, key)[0], range(8)))
            assert states.count(ClaimState.NEW) == 1


class FailingStore(MemoryStore):
    """A store that does not answer, when it is told so: after the step was made, or before."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_after = self.fails_before = False

    def put_if_absent(self, key: str, value: str, ttl: float | None = None) -> bool:
        self._fail(self.fails_before)
        put = super().put_if_absent(key, value, ttl)
        self._fail(self.fails_after)
        return put

    def delete_if(self, key: str, expected: str) -> bool:
        self._fail(self.fails_before)
        return super().delete_if(key, expected)

    @staticmethod
    def _fail(fails: bool) -> None:
        if fails:
            raise ConnectionLostError("the store does not answer")


def test_a_claim_whose_answer_was_lost_is_no_claim_and_blocks_nobody() -> None:
    store = FailingStore()
    claims = Claims(store)
    store.fails_after = True
    with pytest.raises(ConnectionLostError):
        claimed(claims, "key")
    assert store.get("key") is not None
    store.fails_after = False

    assert claimed(claims, "key")[0] is ClaimState.NEW


def test_a_release_that_the_store_did_not_answer_is_made_later() -> None:
    store = FailingStore()
    claims = Claims(store)
    _, token = claimed(claims, "key")
    store.fails_before = True
    assert not claims.release("key", token)
    store.fails_before = False

    assert claimed(claims, "another")[0] is ClaimState.NEW

    assert store.get("key") is None


def test_leases_that_expire_are_renewed_until_they_are_let_go() -> None:
    store = MemoryStore()
    claims = Claims(store)
    token = claims.token()
    claims.claim("key", token, LEASE)
    passed = threading.Event()

    assert not passed.wait(3 * LEASE), "this is the time that passes"
    assert claims.claim("key", claims.token(), LEASE) is ClaimState.IN_PROGRESS

    assert claims.complete("key", token)
    assert claims.claim("key", claims.token(), LEASE) is ClaimState.DONE


def test_a_lease_that_is_not_renewed_expires() -> None:
    clock = FakeClock()
    claims, others = Claims(MemoryStore(clock)), None
    _, token = claimed(claims, "key")
    others = Claims(claims.store)

    clock.advance(15.1)

    assert claimed(others, "key")[0] is ClaimState.NEW
    assert not claims.complete("key", token)


def test_nothing_is_written_to_keep_a_claim_in_a_sql_store(tmp_path: Path) -> None:
    clock = FakeClock()
    store = SqlStore(tmp_path / "bus.db", clock=clock)
    claims = Claims(store)
    _, token = claimed(claims, "key")
    before = (tmp_path / "bus.db-wal").read_bytes()

    clock.advance(1_000_000)

    assert claims.renew("key", token)
    assert (tmp_path / "bus.db-wal").read_bytes() == before
    assert claimed(claims, "key")[0] is ClaimState.IN_PROGRESS
    store.close()


def test_a_claim_of_a_closed_sql_store_is_free(tmp_path: Path) -> None:
    gone, there = SqlStore(tmp_path / "bus.db"), SqlStore(tmp_path / "bus.db")
    claims = Claims(gone)
    _, token = claimed(claims, "key")
    assert claimed(Claims(there), "key")[0] is ClaimState.IN_PROGRESS

    gone.close()

    assert claimed(Claims(there), "key")[0] is ClaimState.NEW
    assert not claims.complete("key", token)
    gone.close()
    there.close()
