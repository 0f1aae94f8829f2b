"""The private brokers of the tests do what tests ask of them, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pika
import pytest
from pika.exceptions import ConnectionClosedByBroker, ProbableAccessDeniedError

from tests.faults.waiting import wait_until
from tests.servers import rabbitmq as rabbitmq_server
from tests.servers.fixtures import private_rabbitmq
from tests.servers.foreign_rabbitmq import ForeignRabbitMq
from tests.servers.need import REQUIRE_VARIABLE, need
from tests.servers.rabbitmq import RabbitMq

ROOT = Path(__file__).parents[2]
PERSISTENT = pika.BasicProperties(delivery_mode=2)


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitMq]:
    with private_rabbitmq() as broker:
        yield broker


def connect(dsn: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(dsn))


def publish(dsn: str, queue: str) -> None:
    with closing(connect(dsn)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"kept", PERSISTENT)


def test_a_broker_that_was_killed_comes_back_with_its_messages(broker: RabbitMq) -> None:
    vhost = broker.make_vhost()
    publish(broker.url(vhost), "orders")

    broker.kill()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connect(broker.url(vhost))
    broker.start()

    assert broker.queues(vhost) == {"orders": 1}


@pytest.mark.full
def test_a_broker_that_was_stopped_comes_back_with_its_messages(broker: RabbitMq) -> None:
    vhost = broker.make_vhost()
    publish(broker.url(vhost), "orders")

    broker.stop()
    broker.start()

    assert broker.queues(vhost) == {"orders": 1}


def test_virtual_hosts_are_separate_and_can_be_deleted(broker: RabbitMq) -> None:
    first, second = broker.make_vhost(), broker.make_vhost()
    publish(broker.url(first), "orders")
    assert broker.queues(second) == {}

    broker.delete_vhost(first)

    with pytest.raises(ProbableAccessDeniedError):
        connect(broker.url(first))


def test_the_application_stops_and_starts_in_a_running_node(broker: RabbitMq) -> None:
    broker.stop_app()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connect(broker.url())
    broker.start_app()
    connect(broker.url()).close()


def test_all_connections_can_be_closed(broker: RabbitMq) -> None:
    connections = [connect(broker.url()), connect(broker.url())]
    assert broker.close_all_connections() == len(connections)
    for connection in connections:
        with pytest.raises(ConnectionClosedByBroker):
            connection.process_data_events(time_limit=30)


def test_a_memory_alarm_blocks_those_who_publish_until_it_ends(broker: RabbitMq) -> None:
    said: list[str] = []
    with closing(connect(broker.url())) as connection:
        connection.add_on_connection_blocked_callback(lambda *_: said.append("blocked"))
        connection.add_on_connection_unblocked_callback(lambda *_: said.append("unblocked"))

        def hear(words: list[str]) -> bool:
            connection.process_data_events(time_limit=0.1)
            return said == words

        with broker.memory_alarm():
            # Only who publishes is told.
            connection.channel().basic_publish("", "nowhere", b"")
            wait_until(lambda: hear(["blocked"]), "the connection is blocked")
        wait_until(lambda: hear(["blocked", "unblocked"]), "the connection is free again")


def test_a_frozen_broker_goes_on_where_it_was(broker: RabbitMq) -> None:
    vhost = broker.make_vhost()
    with closing(connect(broker.url(vhost))) as connection:
        broker.freeze()
        broker.thaw()
        connection.channel().queue_declare("orders")
    assert broker.queues(vhost) == {"orders": 0}


def test_it_says_its_version(broker: RabbitMq) -> None:
    assert broker.version[0].isdigit()


@pytest.mark.full
def test_tests_get_virtual_hosts_on_a_broker_that_is_not_theirs(tmp_path: Path) -> None:
    need(rabbitmq_server.missing())
    broker = RabbitMq(tmp_path, plugins=["rabbitmq_management"])
    try:
        broker.start()
        foreign = ForeignRabbitMq(broker.url(), f"http://127.0.0.1:{broker.management_port}")
        vhost = foreign.make_vhost()
        publish(foreign.url(vhost), "orders")
        assert broker.queues(vhost) == {"orders": 1}
        foreign.delete_vhost(vhost)
        assert vhost not in broker.ctl("list_vhosts")
    finally:
        broker.close()


# A test run that holds a broker and never ends.
HOLDER = """
import signal, sys
from tests.servers.fixtures import private_rabbitmq
with private_rabbitmq() as broker:
    print(broker.folder, flush=True)
    signal.pause()
"""


def test_nothing_of_a_broker_outlives_a_test_run_that_was_killed() -> None:
    need(rabbitmq_server.missing())
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        folder = holder.stdout.readline().decode().strip()
        assert processes_of(folder)
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes_of(folder), "all processes of the broker have ended")
    shutil.rmtree(folder)


def processes_of(folder: str) -> list[str]:
    """Return the processes that have this folder in their environment."""
    mark = f"HOME={folder}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:  # it has ended, or is not ours
            continue
    return found


def test_a_missing_server_skips_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE_VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="RabbitMQ is not installed"):
        need("RabbitMQ is not installed")


def test_a_missing_server_fails_a_test_where_servers_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE_VARIABLE, "1")
    with pytest.raises(pytest.fail.Exception, match="RabbitMQ is not installed; BUS_REQUIRE_SERVERS=1 forbids"):
        need("RabbitMQ is not installed")
