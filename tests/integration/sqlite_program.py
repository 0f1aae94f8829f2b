"""What the tests of the SQLite driver run in processes of its own: ``sqlite_program.py COMMAND DATABASE [NUMBER]``.

Every command prints one line of JSON when it is where the test wants it, and goes on when its standard input ends.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from bus.testing.conformance.traffic import outgoing
from bus.transports.base import Ack, Requeue
from bus.transports.dsn import Dsn
from bus.transports.registry import DriverContext
from bus.transports.sql import SqlDriver, create


def driver_on(database: str) -> SqlDriver:
    return create("orders", Dsn.parse(f"sqlite:///{database}"), {}, DriverContext())


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def wait_for_the_test() -> None:
    sys.stdin.read()


def consume(database: str, _: int) -> None:
    """Claim and acknowledge until nothing is left."""
    driver = driver_on(database)
    say("ready")
    wait_for_the_test()
    handled, lost = [], 0
    while deliveries := driver.get(50):
        handled += [int(delivery.claim.transport_id) for delivery in deliveries]
        lost += len(driver.settle([Ack(delivery.claim) for delivery in deliveries]))
    say([handled, lost])


def write(database: str, number: int) -> None:
    """Send, claim and requeue, in as many transactions as possible."""
    driver = driver_on(database)
    for _ in range(number):
        for result in driver.send([outgoing()]):
            if isinstance(result, Exception):
                raise result
        driver.settle([Requeue(delivery.claim, outgoing()) for delivery in driver.get(5)])
    driver.close()
    say("done")


def hold(database: str, number: int) -> None:
    """Claim messages, begin them and never settle."""
    driver = driver_on(database)
    say([delivery.claim.transport_id for delivery in driver.get(number) if delivery.claim.begin()])
    wait_for_the_test()
    os._exit(0)  # without closing the driver


def lock(database: str, _: int) -> None:
    """Keep a write transaction open."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=60)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    wait_for_the_test()
    connection.execute("ROLLBACK")
    say("unlocked")


def read(database: str, _: int) -> None:
    """Keep a read transaction open."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN")
    say(connection.execute("SELECT count(*) FROM messenger_messages").fetchone()[0])
    wait_for_the_test()


def fork(database: str, number: int) -> None:
    """Claim messages, and let a forked child do all it can to them first."""
    driver = driver_on(database)
    claims = [delivery.claim for delivery in driver.get(number)]
    child = os.fork()
    if child == 0:
        lost = driver.settle([Ack(claim) for claim in claims])
        begun = [claim.begin() for claim in claims]
        claimed = driver.get(100)
        driver.close()
        os._exit(0 if len(lost) == number and not any(begun) and not claimed else 1)
    _, status = os.waitpid(child, 0)
    begun = [claim.begin() for claim in claims]
    lost = driver.settle([Ack(claim) for claim in claims])
    say([os.waitstatus_to_exitcode(status), all(begun), len(lost)])


def orphan(database: str, number: int) -> None:
    """Claim messages, fork a child that lives on, and die."""
    driver = driver_on(database)
    claimed = [delivery.claim.transport_id for delivery in driver.get(number)]
    child = os.fork()
    if child == 0:
        wait_for_the_test()
        os._exit(0)
    say(claimed)
    os.kill(os.getpid(), signal.SIGKILL)


COMMANDS: dict[str, Callable[[str, int], None]] = {
    each.__name__: each for each in (consume, write, hold, lock, read, fork, orphan)
}

if __name__ == "__main__":
    command, database, *number = sys.argv[1:]
    assert Path(database).is_absolute()
    COMMANDS[command](database, int(number[0]) if number else 0)
