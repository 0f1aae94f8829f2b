"""What every store does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from bus import Store
from bus.testing.clock import FakeClock


def test_a_value_is_stored_where_there_is_none(store: Store) -> None:
    assert store.get("key") is None

    assert store.put_if_absent("key", "value")

    assert store.get("key") == "value"


def test_a_value_is_not_stored_over_another(store: Store) -> None:
    store.put_if_absent("key", "first")

    assert not store.put_if_absent("key", "second")

    assert store.get("key") == "first"


def test_keys_do_not_meet(store: Store) -> None:
    assert store.put_if_absent("a", "1")
    assert store.put_if_absent("A", "2")
    assert store.put_if_absent("ä\n'\"", "3")

    assert [store.get(key) for key in ("a", "A", "ä\n'\"")] == ["1", "2", "3"]


def test_a_value_is_swapped_if_it_is_the_expected_one(store: Store) -> None:
    store.put_if_absent("key", "first")

    assert store.swap("key", "first", "second")
    assert not store.swap("key", "first", "third")

    assert store.get("key") == "second"


def test_nothing_is_swapped_where_there_is_nothing(store: Store) -> None:
    assert not store.swap("key", "first", "second")

    assert store.get("key") is None


def test_a_value_is_deleted_if_it_is_the_expected_one(store: Store) -> None:
    store.put_if_absent("key", "value")

    assert not store.delete_if("key", "another")
    assert store.get("key") == "value"
    assert store.delete_if("key", "value")
    assert not store.delete_if("key", "value")
    assert store.get("key") is None


def test_a_value_is_gone_when_its_time_is_over(store: Store, clock: FakeClock) -> None:
    store.put_if_absent("key", "value", ttl=10)
    clock.advance(9.9)
    assert store.get("key") == "value"

    clock.advance(0.2)

    assert store.get("key") is None
    assert not store.swap("key", "value", "another")
    assert not store.delete_if("key", "value")
    assert store.put_if_absent("key", "another")


def test_a_swap_gives_a_value_a_new_time(store: Store, clock: FakeClock) -> None:
    store.put_if_absent("key", "value", ttl=10)
    clock.advance(9)
    assert store.swap("key", "value", "value", ttl=10)

    clock.advance(9)
    assert store.get("key") == "value"

    clock.advance(2)
    assert store.get("key") is None


def test_a_swap_without_a_time_takes_the_old_one_away(store: Store, clock: FakeClock) -> None:
    store.put_if_absent("key", "value", ttl=10)
    store.swap("key", "value", "kept")

    clock.advance(1_000_000)

    assert store.get("key") == "kept"


def test_the_time_of_a_deleted_value_is_not_that_of_the_next(store: Store, clock: FakeClock) -> None:
    store.put_if_absent("key", "value", ttl=10)
    store.delete_if("key", "value")
    store.put_if_absent("key", "kept")

    clock.advance(11)

    assert store.get("key") == "kept"


def test_one_of_many_threads_puts_a_value(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            put = list(threads.map(lambda each, key=f"key {number}": store.put_if_absent(key, str(each)), range(8)))
            assert put.count(True) == 1
            assert store.get(f"key {number}") == str(put.index(True))


def test_a_closed_store_opens_again_with_its_values(store: Store) -> None:
    store.put_if_absent("key", "value")
    store.close()
    store.close()

    assert store.get("key") == "value"
