from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from bus import Messenger, WorkerOptions
from bus.config.schema import MessengerConfig, TransportConfig
from bus.errors import ConfigurationError, TransportError
from bus.stop_requests import (
    NO_REQUEST,
    RequestsInStore,
    RequestsOnThisHost,
    StopRequests,
    stop_on_request,
    stop_requests,
)
from bus.store.memory import MemoryStore
from bus.store.sql import SqlStore

OFTEN = 0.005  # seconds


@pytest.fixture(params=["store", "host"])
def requests(request: pytest.FixtureRequest, tmp_path: Path) -> StopRequests:
    if request.param == "store":
        return RequestsInStore(MemoryStore())
    return RequestsOnThisHost(tmp_path / "bus")


class Failing:
    """Requests whose store cannot be reached until it is said to be."""

    reaches_other_hosts = True

    def __init__(self) -> None:
        self.works = False
        self.inner = RequestsInStore(MemoryStore())
        self.looks = 0

    def latest(self) -> str:
        self.looks += 1
        if not self.works:
            raise TransportError("the store is away")
        return self.inner.latest()

    def leave(self) -> None:
        self.inner.leave()


def test_a_request_is_seen_and_a_second_one_is_another_one(requests):
    assert requests.latest() == NO_REQUEST
    requests.leave()
    first = requests.latest()
    requests.leave()

    assert len({NO_REQUEST, first, requests.latest()}) == 3


def test_a_worker_that_runs_is_stopped_by_a_request(requests, eventually):
    reasons: list[str] = []
    known: list[str] = []
    with stop_on_request(reasons.append, lambda: requests, known=known.append, every=OFTEN):
        eventually(lambda: known)
        requests.leave()
        eventually(lambda: reasons)

    assert known == [NO_REQUEST]
    assert reasons == ["bus stop-workers was called"]


def test_a_worker_that_starts_after_a_request_is_not_stopped_by_it(requests, eventually):
    requests.leave()
    reasons: list[str] = []
    looks = Counting(requests)
    with stop_on_request(reasons.append, lambda: looks, every=OFTEN):
        eventually(lambda: looks.count >= 3)
        assert reasons == []
        requests.leave()
        eventually(lambda: reasons)


def test_who_is_told_an_older_request_is_stopped_by_the_present_one(requests, eventually):
    requests.leave()
    reasons: list[str] = []
    with stop_on_request(reasons.append, lambda: requests, since=NO_REQUEST, every=OFTEN):
        eventually(lambda: reasons)


def test_a_store_that_is_away_is_logged_once_and_asked_again(eventually, caplog):
    failing = Failing()
    reasons: list[str] = []
    known: list[str] = []
    with stop_on_request(reasons.append, lambda: failing, known=known.append, every=OFTEN):
        eventually(lambda: failing.looks >= 3)
        failing.works = True
        eventually(lambda: known)
        failing.leave()
        eventually(lambda: reasons)

    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert warnings == [
        "bus stop-workers does not reach this worker at present: TransportError: the store is away",
    ]


def test_a_store_that_forgets_a_request_stops_nobody(eventually):
    store = MemoryStore()
    requests = RequestsInStore(store)
    requests.leave()
    looks = Counting(requests)
    reasons: list[str] = []
    with stop_on_request(reasons.append, lambda: looks, every=OFTEN):
        eventually(lambda: looks.count)
        store.delete_if("bus:stop-workers", requests.latest())
        seen = looks.count
        eventually(lambda: looks.count >= seen + 2)

    assert reasons == []


def test_requests_of_several_at_once_are_all_left(tmp_path):
    requests = RequestsInStore(SqlStore(tmp_path / "bus.db"))
    threads = [threading.Thread(target=requests.leave) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert requests.latest() != NO_REQUEST


def test_looking_creates_no_database(tmp_path):
    path = tmp_path / "bus.db"

    assert RequestsInStore(SqlStore(path)).latest() == NO_REQUEST
    assert not path.exists()


def test_a_folder_that_somebody_else_made_is_not_trusted(tmp_path, monkeypatch):
    folder = tmp_path / "bus"
    RequestsOnThisHost(folder).leave()
    owner = os.getuid()
    monkeypatch.setattr("bus.stop_requests.os.getuid", lambda: owner + 1)

    for step in (RequestsOnThisHost(folder).leave, RequestsOnThisHost(folder).latest):
        with pytest.raises(ConfigurationError, match="belongs to another user"):
            step()


def test_a_store_in_memory_is_shared_with_nobody(tmp_path):
    assert not stop_requests(MemoryStore()).reaches_other_hosts
    assert stop_requests(SqlStore(tmp_path / "bus.db")).reaches_other_hosts


def test_a_worker_does_without_a_store_that_cannot_be_made(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "oracle://localhost/shop")
    config = MessengerConfig(transports={"async": TransportConfig(dsn="in-memory://")})
    with Messenger(config) as messenger:
        messenger.consume(["async"], WorkerOptions(stop_when_empty=True))

    assert "bus stop-workers does not reach this worker at present" in caplog.text


class Counting:
    """Requests that count how often somebody looked."""

    reaches_other_hosts = True

    def __init__(self, requests: StopRequests) -> None:
        self._requests = requests
        self.count = 0

    def latest(self) -> str:
        found = self._requests.latest()
        self.count += 1
        return found

    def leave(self) -> None:
        self._requests.leave()
