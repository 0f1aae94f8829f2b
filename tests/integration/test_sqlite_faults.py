"""What the SQLite driver makes of full disks, locks, other people's tables and broken files."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus.errors import AccessDeniedError, ConnectionLostError, SendRefused, SendUnknown, TransportError
from bus.testing.conformance.traffic import bodies, eventually, outgoing, receive
from bus.transports.base import Ack, Counts, Requeue, Sent
from bus.transports.sql import SqlDriver

Start = Callable[..., Any]
Open = Callable[..., SqlDriver]


def execute(database: Path, statement: str) -> list[Any]:
    with sqlite3.connect(database) as connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def pragma(driver: SqlDriver, text: str) -> object:
    """Set something on the driver's own connection."""
    return driver._database.read(lambda cursor: cursor.execute(f"PRAGMA {text}").fetchone())


# --- a full or read-only disk ---


def test_a_message_for_a_full_disk_is_refused_and_not_stored(driver: SqlDriver) -> None:
    driver.send([outgoing(b"first")])
    pragma(driver, "max_page_count = 1")

    results = driver.send([outgoing(b"x" * 100_000), outgoing(b"small")])

    assert [type(result) for result in results] == [SendRefused, SendRefused]
    assert "no space left" in str(results[0])
    assert driver.counts().ready == 1, "a batch is stored whole or not at all"


def test_a_full_disk_loses_nothing_and_is_recovered_from(driver: SqlDriver) -> None:
    driver.send([outgoing(b"first")])
    claim = receive(driver, 1)[0].claim
    pragma(driver, "max_page_count = 1")
    with pytest.raises(ConnectionLostError, match="no space left"):
        driver.settle([Requeue(claim, outgoing(b"x" * 100_000))])

    pragma(driver, "max_page_count = 1000000")

    assert list(driver.settle([Requeue(claim, outgoing(b"again"))])) == []
    assert bodies(receive(driver, 1)) == [b"again"]


def test_a_read_only_database_refuses_messages_by_name(driver: SqlDriver, database: Path) -> None:
    driver.send([outgoing()])
    pragma(driver, "query_only = ON")

    (result,) = driver.send([outgoing()])

    assert isinstance(result, SendRefused)
    assert str(database) in str(result)
    with pytest.raises(AccessDeniedError):
        driver.get(1)


def test_a_commit_of_unknown_outcome_is_told_as_such(driver: SqlDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.send([outgoing()])
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR | (4 << 8)  # while the file was brought to the disk

    class Failing(sqlite3.Cursor):
        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            if statement == "COMMIT":
                raise error
            return super().execute(statement, *parameters)

    class Connection:
        """The driver's connection, with cursors that fail."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def cursor(self) -> sqlite3.Cursor:
            return self._connection.cursor(Failing)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    connected = driver._database._connected
    with monkeypatch.context() as patch:
        patch.setattr(driver._database, "_connected", lambda: Connection(connected()))
        results = driver.send([outgoing(), outgoing()])

    assert [type(result) for result in results] == [SendUnknown, SendUnknown]
    assert isinstance(driver.send([outgoing()])[0], Sent), "it goes on with a new connection"


# --- other writers and readers ---


def test_a_send_to_a_locked_database_ends_within_its_deadline(driver: SqlDriver, start: Start) -> None:
    driver.send([outgoing()])
    assert start("lock").says() == "locked"
    began = time.monotonic()

    (result,) = driver.send([outgoing()])

    assert isinstance(result, SendRefused)
    assert "is locked: another connection has been writing for more than" in str(result)
    assert 3.5 < time.monotonic() - began < 6.5


def test_a_send_waits_for_a_writer_that_ends_in_time(driver: SqlDriver, start: Start) -> None:
    driver.send([outgoing()])
    writer = start("lock")
    assert writer.says() == "locked"
    threading.Timer(0.5, writer.go_on).start()

    (result,) = driver.send([outgoing()])

    assert isinstance(result, Sent)


def test_settling_can_be_repeated_until_the_writer_is_gone(driver: SqlDriver, start: Start) -> None:
    driver.send([outgoing(), outgoing()])
    first, second = (delivery.claim for delivery in receive(driver, 2))
    writer = start("lock")
    assert writer.says() == "locked"
    settlements = [Ack(first), Requeue(second, outgoing(b"again"))]
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match="is locked"):
            driver.settle(settlements)

    writer.go_on()

    def settled() -> bool:
        try:
            return list(driver.settle(settlements)) == []
        except ConnectionLostError:
            return False

    eventually(settled, "it should have been settled")
    assert bodies(receive(driver, 1)) == [b"again"]
    assert driver.counts() == Counts(ready=0, delayed=0, in_flight=1, parked=0)


def test_claiming_goes_on_when_the_writer_is_gone(driver: SqlDriver, start: Start) -> None:
    driver.send([outgoing()])
    writer = start("lock")
    assert writer.says() == "locked"
    with pytest.raises(ConnectionLostError, match="is locked"):
        driver.get(1)

    writer.go_on()
    assert writer.says() == "unlocked"

    assert len(receive(driver, 1)) == 1


def test_an_idle_worker_does_not_notice_a_writer(driver: SqlDriver, start: Start) -> None:
    assert list(driver.get(1)) == []
    assert start("lock").says() == "locked"

    assert list(driver.get(1)) == []
    assert driver.counts().ready == 0
    assert list(driver.peek(1)) == []


def test_an_open_read_transaction_disturbs_nobody(driver: SqlDriver, start: Start) -> None:
    driver.send([outgoing()])
    assert start("read").says() == 1

    assert isinstance(driver.send([outgoing()])[0], Sent)
    claims = [delivery.claim for delivery in receive(driver, 2)]
    assert list(driver.settle([Ack(claim) for claim in claims])) == []


def test_a_claim_outlives_every_lock(driver: SqlDriver, open_sqlite: Open, start: Start) -> None:
    driver.send([outgoing()])
    claim = receive(driver, 1)[0].claim
    writer = start("lock")
    assert writer.says() == "locked"
    other = open_sqlite()

    for _ in range(3):
        assert list(other.get(1)) == [], "nothing has to be written to keep a claim"
    writer.go_on()
    assert writer.says() == "unlocked"

    assert list(driver.settle([Ack(claim)])) == []


def test_closing_a_locked_database_ends_in_time(
    driver: SqlDriver, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    driver.send([outgoing()])
    receive(driver, 1)
    writer = start("lock")
    assert writer.says() == "locked"
    began = time.monotonic()

    driver.close()

    assert time.monotonic() - began < 4
    assert [record.levelno for record in caplog.records if "given back" in record.message] == [logging.WARNING]
    writer.go_on()
    assert writer.says() == "unlocked"
    assert receive(driver, 1)[0].claim.deliveries == 2


def test_closing_ends_the_wait_of_a_send(driver: SqlDriver, start: Start) -> None:
    driver.send([outgoing()])
    assert start("lock").says() == "locked"
    results: list[Sent | TransportError] = []
    sending = threading.Thread(target=lambda: results.extend(driver.send([outgoing()])))
    began = time.monotonic()
    sending.start()

    eventually(driver._database._guard.locked, "the send should wait")
    driver.close()
    sending.join()

    assert time.monotonic() - began < 3
    assert [type(result) for result in results] == [SendRefused]


def test_8_processes_that_write_surface_no_error(driver: SqlDriver, start: Start) -> None:
    driver.set_up()
    writers = [start("write", 20) for _ in range(8)]

    assert [writer.says() for writer in writers] == ["done"] * 8
    assert len(driver.peek(1000)) == 8 * 20


# --- tables and files that are not as they should be ---


def test_folders_are_made_when_they_are_needed(tmp_path: Path, open_sqlite: Open, database: Path) -> None:
    database.parent.rmdir()

    assert open_sqlite().counts() == Counts(0, 0, 0, 0)
    assert list(open_sqlite().peek(1)) == []
    assert not database.parent.exists(), "looking makes nothing"
    assert isinstance(open_sqlite().send([outgoing()])[0], Sent)


def test_a_table_that_is_missing_and_may_not_be_made_is_named(open_sqlite: Open, database: Path) -> None:
    execute(database, "CREATE TABLE other (id)")
    driver = open_sqlite(auto_setup=False)
    told = f'SQLite database "{database}" has no table "messenger_messages"; create it with "bus setup-transports"'

    (result,) = driver.send([outgoing()])

    assert isinstance(result, SendRefused)
    assert str(result).startswith(told)
    with pytest.raises(AccessDeniedError, match="has no table"):
        driver.get(1)
    assert driver.check() == (f'there is no table "messenger_messages" in SQLite database "{database}"',)

    driver.set_up()
    assert isinstance(driver.send([outgoing()])[0], Sent)


@pytest.mark.parametrize("auto_setup", [True, False])
def test_a_table_of_something_else_is_left_alone(open_sqlite: Open, database: Path, auto_setup: bool) -> None:
    execute(database, "CREATE TABLE messenger_messages (id INTEGER PRIMARY KEY, body TEXT)")
    driver = open_sqlite(auto_setup=auto_setup)

    (result,) = driver.send([outgoing()])

    assert isinstance(result, SendRefused)
    assert 'is no table of messages: it has no "headers", "queue_name"' in str(result)
    assert len(execute(database, "PRAGMA table_info(messenger_messages)")) == 2


def test_a_table_that_is_dropped_is_made_again(driver: SqlDriver, database: Path) -> None:
    driver.send([outgoing()])
    claim = receive(driver, 1)[0].claim
    execute(database, "DROP TABLE messenger_messages")

    for _ in range(2):
        result = driver.send([outgoing(b"new")])[0]

    assert isinstance(result, Sent)
    assert bodies(receive(driver, 1)) == [b"new"]
    assert list(driver.settle([Ack(claim)])) == [claim]


def test_a_file_that_is_deleted_is_noticed_before_anything_is_lost_in_it(
    driver: SqlDriver, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver.send([outgoing(b"gone"), outgoing(b"gone")])
    claim = receive(driver, 2)[1].claim
    for path in database.parent.glob("bus.db*"):
        if path.is_file():
            path.unlink()

    assert isinstance(driver.send([outgoing(b"kept")])[0], Sent)

    assert execute(database, "SELECT body FROM messenger_messages") == [("kept",)]
    assert "deleted or replaced" in caplog.text
    assert list(driver.settle([Ack(claim)])) == [claim]
    assert bodies(receive(driver, 1)) == [b"kept"]


def test_a_file_that_is_no_database_is_named(open_sqlite: Open, database: Path) -> None:
    database.write_bytes(b"not a database, but longer than a header of one hundred bytes" * 20)
    driver = open_sqlite()

    with pytest.raises(AccessDeniedError, match="file is not a database"):
        driver.get(1)
    assert isinstance(driver.send([outgoing()])[0], SendRefused)


def test_setting_up_at_the_same_time_is_harmless(open_sqlite: Open) -> None:
    drivers = [open_sqlite() for _ in range(6)]
    threads = [threading.Thread(target=driver.send, args=([outgoing()],)) for driver in drivers]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert drivers[0].counts().ready == 6
    assert list(drivers[0].check()) == []


def test_the_database_is_in_wal_mode_and_syncs_every_commit(driver: SqlDriver) -> None:
    driver.send([outgoing()])

    assert pragma(driver, "journal_mode") == (b"wal",)
    assert pragma(driver, "synchronous") == (2,)
