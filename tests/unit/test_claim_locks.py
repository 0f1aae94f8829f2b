from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.claim_locks import ClaimLocks
from bus.errors import ConnectionLostError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var" / "bus.db-claims"


@pytest.fixture
def living(folder: Path) -> Iterator[ClaimLocks]:
    locks = ClaimLocks(folder)
    yield locks
    locks.release()


@pytest.fixture
def other(folder: Path) -> ClaimLocks:
    return ClaimLocks(folder)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_locked_before_the_first_claim(living: ClaimLocks, folder: Path) -> None:
    assert living.held_token is None
    assert not folder.exists()
    assert living.tokens() == set()


def test_a_token_stays_the_same_until_it_is_released(living: ClaimLocks, folder: Path) -> None:
    token = living.token()

    assert living.token() == living.held_token == token
    living.release()
    assert living.held_token is None
    assert files(folder) == []
    assert living.token() != token


def test_a_living_token_is_not_dead(living: ClaimLocks, other: ClaimLocks) -> None:
    token = living.token()

    assert other.tokens() == {token}
    with other.dead(token) as dead:
        assert not dead
    assert other.tokens() == {token}


def test_an_owner_whose_file_was_removed_takes_its_lock_again_under_the_same_token(
    living: ClaimLocks, other: ClaimLocks, folder: Path
) -> None:
    token = living.token()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()

    assert living.token() == token
    with other.dead(token) as dead:
        assert not dead
    living.release()
    assert files(folder) == []


def test_a_token_without_a_file_is_dead(other: ClaimLocks, folder: Path) -> None:
    folder.mkdir(parents=True)

    with other.dead("0" * 32) as dead:
        assert dead
    assert files(folder) == []


def test_one_reaper_at_a_time_finds_a_token_dead(other: ClaimLocks, folder: Path) -> None:
    folder.mkdir(parents=True)
    second = ClaimLocks(folder)

    with other.dead("abc") as dead, second.dead("abc") as dead_too:
        assert dead
        assert not dead_too


def test_a_dead_token_whose_claims_could_not_be_freed_keeps_its_file(other: ClaimLocks, folder: Path) -> None:
    folder.mkdir(parents=True)

    with pytest.raises(ConnectionLostError), other.dead("abc"):
        raise ConnectionLostError("the database is locked")

    assert files(folder) == ["abc.lock"]
    with other.dead("abc") as dead:
        assert dead


@pytest.mark.parametrize("token", ["../escaped", "a/b", "", "x" * 65, "a\0b", ".."])
def test_a_token_that_is_no_file_name_is_dead_and_makes_no_file(other: ClaimLocks, folder: Path, token: str) -> None:
    folder.mkdir(parents=True)

    with other.dead(token) as dead:
        assert dead

    assert files(folder) == []
    assert files(folder.parent) == [folder.name]


def test_other_files_in_the_folder_are_no_tokens(living: ClaimLocks, other: ClaimLocks, folder: Path) -> None:
    living.token()
    (folder / "README").write_text("keep me")

    assert other.tokens() == {living.held_token}


def test_a_lock_that_cannot_be_taken_is_an_error_by_name(folder: Path, other: ClaimLocks) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")

    with pytest.raises(ConnectionLostError, match="which keeps claims alive, cannot be taken"):
        other.token()
