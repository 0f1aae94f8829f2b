"""MariaDB: leases, the index, what the server may do to the driver, handlers' transactions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from sqlalchemy import Connection, text

from bus import (
    BusConfig,
    ConnectionLostError,
    HandlerFailedError,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    SendRefused,
    SendUnknown,
    TransportConfig,
)
from bus.errors import AccessDeniedError, TransportError
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.base import Ack, Requeue, Sent
from bus.transports.registry import DriverContext, create_driver
from bus.transports.sql.server.driver import ServerDriver
from bus.transports.sql.server.mysql_table import MysqlTable
from tests.faults.waiting import wait_until
from tests.servers.databases import private_mariadb
from tests.servers.mariadb import MariaDb


@dataclass(frozen=True)
class Placed:
    id: str


@dataclass(frozen=True)
class Shipped:
    id: str


class Database:
    def __init__(self, server: MariaDb) -> None:
        self.server = server
        self.dsn = server.make_database()
        self.name = self.dsn.rpartition("/")[2]
        self.drivers: list[ServerDriver[MysqlTable]] = []

    def open(self) -> ServerDriver[MysqlTable]:
        driver = create_driver("async", self.dsn, {}, DriverContext())
        assert isinstance(driver, ServerDriver)
        self.drivers.append(driver)
        return driver

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        return self.server.execute(statement, self.name)

    def end_leases(self) -> None:
        """Let the time of all leases pass, as it does when their holder is dead."""
        self.execute(
            "UPDATE messenger_messages SET available_at = available_at - INTERVAL 16 SECOND, "
            "delivered_at = delivered_at - INTERVAL 16 SECOND WHERE delivered_at IS NOT NULL"
        )


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDb]:
    with private_mariadb() as server:
        yield server


@pytest.fixture
def database(server: MariaDb) -> Iterator[Database]:
    database = Database(server)
    yield database
    for driver in database.drivers:
        driver.close()


# --- leases ---


def test_what_a_dead_worker_held_comes_back_counted_and_alone(database: Database) -> None:
    dead, alive = database.open(), database.open()
    dead.send([outgoing(b"1"), outgoing(b"2")])
    receive(dead, 2)
    assert list(alive.get(10)) == []

    database.end_leases()

    first, second = list(alive.get(10)), list(alive.get(10))
    assert [each.claim.deliveries for each in first + second] == [2, 2]


def test_a_lease_is_renewed_while_its_holder_lives(database: Database) -> None:
    driver, other = database.open(), database.open()
    driver.send([outgoing()])
    claim = receive(driver, 1)[0].claim
    claim.begin()
    database.end_leases()

    driver._renew()

    assert list(other.get(1)) == []
    assert list(driver.settle([Ack(claim)])) == []


def test_a_late_settlement_touches_nothing_of_the_new_holder(database: Database) -> None:
    late, new = database.open(), database.open()
    late.send([outgoing(b"x")])
    stolen = receive(late, 1)[0].claim
    stolen.begin()
    database.end_leases()
    claim = receive(new, 1)[0].claim

    assert list(late.settle([Requeue(stolen, outgoing(b"not mine"))])) == [stolen]
    assert list(new.settle([Ack(claim)])) == []


def test_a_claim_reads_a_range_of_the_index_in_its_order(database: Database) -> None:
    driver = database.open()
    driver.send([outgoing() for _ in range(200)])
    table = driver._prepared.claimable()
    connection = database.server.connect(database.name)
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN " + table.statements.ready, {"queue": "default", "lane": 0, "limit": 10})
        ((*_, kind, _, key, _, _, _, extra),) = cursor.fetchall()
    connection.close()

    assert (kind, key) == ("range", "messenger_messages_claim")
    assert "filesort" not in extra


def test_a_table_of_symfonys_gets_our_columns(database: Database) -> None:
    database.execute(
        "CREATE TABLE messenger_messages (id BIGINT AUTO_INCREMENT NOT NULL, body LONGTEXT NOT NULL, "
        "headers LONGTEXT NOT NULL, queue_name VARCHAR(190) NOT NULL, created_at DATETIME NOT NULL, "
        "available_at DATETIME NOT NULL, delivered_at DATETIME DEFAULT NULL, INDEX IDX_75EA56E0FB7336F0 (queue_name), "
        "INDEX IDX_75EA56E0E3BD61CE (available_at), INDEX IDX_75EA56E016BA31DB (delivered_at), PRIMARY KEY(id)) "
        "DEFAULT CHARACTER SET utf8mb4 ENGINE = InnoDB"
    )
    insert = (
        "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) "
        "VALUES ('{}', '{}', 'default', UTC_TIMESTAMP(), UTC_TIMESTAMP())"
    )
    database.execute(insert)
    driver = database.open()

    assert bodies(receive(driver, 1)) == [b"{}"]
    database.execute(insert)
    assert bodies(receive(driver, 1)) == [b"{}"]
    driver.send([outgoing(b"ours")])
    assert database.execute("SELECT COUNT(*) FROM messenger_messages WHERE available_at > UTC_TIMESTAMP(3)") == [(2,)]
    assert list(driver.check()) == []


# --- faults ---


def test_connections_that_were_cut_while_idle_are_replaced(database: Database) -> None:
    driver = database.open()
    driver.send([outgoing(b"1")])
    claim = receive(driver, 1)[0].claim

    database.server.terminate_backends()
    assert isinstance(driver.send([outgoing(b"2")])[0], Sent)
    database.server.terminate_backends()
    assert list(driver.settle([Ack(claim)])) == []
    database.server.terminate_backends()
    assert bodies(receive(driver, 1)) == [b"2"]


def test_a_server_that_hangs_does_not_hang_the_sender(database: Database) -> None:
    driver = database.open()
    driver.send([outgoing(b"before")])
    began = time.monotonic()
    with database.server.frozen():
        (result,) = driver.send([outgoing(b"lost?")])
        took = time.monotonic() - began

    assert isinstance(result, SendUnknown | SendRefused)
    assert took < 15
    assert isinstance(driver.send([outgoing(b"after")])[0], Sent)


def test_a_server_that_is_down_refuses_and_comes_back(database: Database) -> None:
    driver = database.open()
    driver.send([outgoing(b"before")])
    database.server.kill()
    try:
        assert isinstance(driver.send([outgoing(b"refused")])[0], SendRefused)
        with pytest.raises(ConnectionLostError):
            driver.get(1)
    finally:
        database.server.start()

    assert bodies(receive(driver, 1)) == [b"before"]


def test_what_this_user_may_not_do_is_told_at_once(database: Database) -> None:
    nowhere = create_driver("async", f"{database.dsn}_no_such_database", {}, DriverContext())
    nobody = create_driver("async", database.dsn.replace("root@", "nobody:wrong@"), {}, DriverContext())

    for driver in (nowhere, nobody):
        with pytest.raises(AccessDeniedError) as raised:
            driver.get(1)
        assert "wrong" not in str(raised.value)
        driver.close()


def test_processes_that_set_up_at_once_do_not_disturb_each_other(database: Database) -> None:
    drivers = [database.open() for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(lambda driver: driver.send([outgoing()])[0], drivers))

    assert not [each for each in results if isinstance(each, TransportError)]


# --- transactions ---


@pytest.fixture
def shop(database: Database) -> Iterator[tuple[Database, list[Messenger]]]:
    database.execute("CREATE TABLE orders (id VARCHAR(20) PRIMARY KEY) ENGINE=InnoDB")
    made: list[Messenger] = []
    yield database, made
    for messenger in made:
        messenger.close()


def messenger_of(database: Database, *handlers: object) -> Messenger:
    middleware = tuple(MiddlewareConfig(name=each) for each in ("idempotency", "transaction"))
    config = MessengerConfig(
        buses={"bus": BusConfig(middleware=middleware)},
        transports={
            "here": TransportConfig(dsn="sql://default?queue_name=here"),
            "memory": TransportConfig(dsn="in-memory://"),
        },
        connections={"default": database.dsn},
        routing={f"{__name__}.Shipped": ("here", "memory")},
    )
    return Messenger(config, handlers=handlers)  # type: ignore[arg-type]


def counted(messenger: Messenger, transport: str) -> int:
    return len(list(messenger.transport(transport).peek(100) or ()))


def test_work_record_and_messages_are_committed_together(shop: tuple[Database, list[Messenger]]) -> None:
    database, made = shop

    def place(event: Placed, connection: Connection) -> None:
        connection.execute(text("INSERT INTO orders VALUES (:id)"), {"id": event.id})
        messenger.bus.dispatch(Shipped(event.id))

    messenger = messenger_of(database, place)
    made.append(messenger)
    (envelope,) = messenger.bus.dispatch_many([Placed("o-1")])
    messenger.bus.dispatch(envelope)

    assert database.execute("SELECT id FROM orders") == [("o-1",)]
    assert (counted(messenger, "here"), counted(messenger, "memory")) == (1, 1)
    wait_until(lambda: database.execute("SELECT COUNT(*) FROM messenger_outbox") == [(0,)], "the outbox is empty", 30)


def test_a_failed_handler_leaves_nothing(shop: tuple[Database, list[Messenger]]) -> None:
    database, made = shop

    def place(event: Placed, connection: Connection) -> None:
        connection.execute(text("INSERT INTO orders VALUES (:id)"), {"id": event.id})
        messenger.bus.dispatch(Shipped(event.id))
        raise ValueError("not now")

    messenger = messenger_of(database, place)
    made.append(messenger)
    with pytest.raises(HandlerFailedError):
        messenger.bus.dispatch(Placed("o-1"))

    assert database.execute("SELECT id FROM orders") == []
    assert (counted(messenger, "here"), counted(messenger, "memory")) == (0, 0)
