"""A Redis behind Sentinels, in a cluster, behind TLS."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bus import RedisStore
from bus.errors import ConfigurationError, TransportError
from bus.testing.conformance.traffic import bodies, eventually, outgoing
from bus.transports.base import Ack, Outgoing, Sent
from bus.transports.redis import RedisDriver
from tests.integration.redis_drivers import drivers_on
from tests.servers.fixtures import private_redis, private_redis_cluster, private_redis_sentinel
from tests.servers.need import need
from tests.servers.ports import REDIS, reserved

WITHIN = 60.0  # seconds; generous, for busy machines


def send_in_time(driver: RedisDriver, message: Outgoing) -> None:
    def is_sent() -> bool:
        try:
            return isinstance(driver.send([message])[0], Sent)
        except TransportError:
            return False

    eventually(is_sent, "the message is sent", within=WITHIN)


def handle_in_time(driver: RedisDriver, expected: set[bytes]) -> None:
    handled: set[bytes] = set()

    def all_are_handled() -> bool:
        try:
            deliveries = driver.get(10)
            driver.settle([Ack(each.claim) for each in deliveries])
        except TransportError:
            return False
        handled.update(bodies(deliveries))
        return handled >= expected

    eventually(all_are_handled, "all messages are handled", within=WITHIN)


def test_a_fail_over_is_survived_with_everything_that_the_replica_had() -> None:
    with private_redis_sentinel() as watched, drivers_on(watched.url) as drivers:
        driver = drivers.open(**watched.options)
        before = {str(number).encode() for number in range(20)}
        driver.send([outgoing(body) for body in before])
        driver.send([outgoing(b"delayed", delay_ms=1000)])
        assert len(driver.get(5)) == 5, "some are held meanwhile"
        driver.give_back()
        watched.wait_for_the_replica()

        watched.fail_over()
        send_in_time(driver, outgoing(b"after"))

        handle_in_time(driver, {*before, b"delayed", b"after"})


def test_a_node_of_a_cluster_may_restart() -> None:
    with private_redis_cluster() as cluster, drivers_on(cluster.url) as drivers:
        transports = [drivers.open(f"stream-{number}") for number in range(6)]
        for driver in transports:
            driver.send([outgoing(b"before")])

        cluster.nodes[1].kill()
        cluster.nodes[1].start()

        for driver in transports:
            send_in_time(driver, outgoing(b"after"))
            handle_in_time(driver, {b"before", b"after"})


def test_a_store_works_in_a_cluster_and_behind_sentinels() -> None:
    with private_redis_cluster() as cluster:
        store = RedisStore(cluster.url)
        for number in range(10):
            assert store.put_if_absent(f"key {number}", "a", 60)
            assert store.swap(f"key {number}", "a", "b")
            assert store.delete_if(f"key {number}", "b")
        store.close()
    with private_redis_sentinel() as watched:
        store = RedisStore(f"{watched.url}?sentinel_master={watched.options['sentinel_master']}")
        assert store.put_if_absent("key", "a")
        assert store.get("key") == "a"
        store.close()


def test_a_server_is_spoken_to_through_tls_and_checked(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    need(None if openssl else "openssl is not installed")
    assert openssl is not None
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    tls = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    with (
        reserved(REDIS, 2) as port,
        private_redis("--tls-port", str(port), *tls),
        drivers_on(f"rediss://localhost:{port}") as drivers,
    ):
        trusting = drivers.open(cafile=str(certificate))
        trusting.send([outgoing(b"secret")])
        handle_in_time(trusting, {b"secret"})

        with pytest.raises(TransportError, match="certificate"):
            drivers.open().send([outgoing()])
        drivers.open(verify_peer=False).send([outgoing()])


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        ("redis://localhost/a/b/c/d", 'the path of a Redis DSN is "/stream/group/consumer"'),
        ("redis://", "the DSN names no server"),
        ("redis://localhost?serializer=2", 'option "serializer" must be 0'),
        ("redis://localhost?strem=a", 'did you mean "stream"'),
        ("redis://localhost?cluster=true&sentinel_master=a", "exclude each other"),
        ("redis://localhost?stream_max_entries=-1", '"stream_max_entries" must be 0 or more'),
        ("redis://localhost?redeliver_timeout=0", '"redeliver_timeout" must be at least 1 second'),
        ("redis://localhost?claim_interval=0", '"claim_interval" must be at least 1 millisecond'),
        ("redis://localhost?timeout=0", '"timeout" must be more than 0'),
        ("redis://localhost?dbindex=-1", '"dbindex" must be 0 to'),
        ("redis://localhost?stream=%20&group=", 'option "group"'),
    ],
)
def test_a_wrong_option_is_a_problem_of_the_configuration(dsn: str, problem: str) -> None:
    from bus.transports.registry import DriverContext, create_driver

    with pytest.raises(ConfigurationError) as raised:
        create_driver("async", dsn, {}, DriverContext())

    assert problem in str(raised.value)
