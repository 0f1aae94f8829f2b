"""``amqps://``, with a server that asks for a certificate of the client too."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.errors import ConfigurationError, TransportError
from bus.testing.conformance.traffic import bodies, outgoing, receive
from bus.transports.base import Driver, Sent
from bus.transports.registry import DriverContext, create_driver
from tests.servers import rabbitmq as rabbitmq_server
from tests.servers.need import need
from tests.servers.rabbitmq import RabbitMq


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Return a folder with a CA, and what it has signed: a server's and a client's certificate, each with its key."""
    openssl = shutil.which("openssl")
    need(None if openssl else "openssl is not installed")
    assert openssl is not None
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")

    def run(command: str) -> None:
        subprocess.run([openssl, *command.split()], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca-key.pem -out ca.pem")
    for name in ("server", "client"):
        run(f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}-key.pem -out {name}.csr")
        run(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile names "
            f"-out {name}.pem"
        )
    return tmp_path


@pytest.fixture
def tls_broker(tmp_path: Path, certificates: Path) -> Iterator[RabbitMq]:
    need(rabbitmq_server.missing())
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = RabbitMq(folder)
    with (folder / "rabbitmq.conf").open("a") as configuration:
        configuration.write(
            f"listeners.ssl.1 = 127.0.0.1:{broker.tls_port}\n"
            f"ssl_options.certfile = {certificates}/server.pem\nssl_options.keyfile = {certificates}/server-key.pem\n"
            f"ssl_options.cacertfile = {certificates}/ca.pem\n"
            "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
        )
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


def test_both_sides_are_known_by_their_certificates(tls_broker: RabbitMq, certificates: Path) -> None:
    drivers: list[Driver] = []

    def opened(**options: object) -> Driver:
        dsn = f"amqps://guest:guest@localhost:{tls_broker.tls_port}/%2f/orders"
        drivers.append(create_driver("async", dsn, {"confirm_timeout": 2, **options}, DriverContext()))
        return drivers[-1]

    ca, cert, key = (str(certificates / name) for name in ("ca.pem", "client.pem", "client-key.pem"))
    try:
        driver = opened(cacert=ca, cert=cert, key=key)
        assert driver.send([outgoing(b"secret")]) == [Sent()]
        assert bodies(receive(driver, 1)) == [b"secret"]
        assert opened(verify=False, cert=cert, key=key).send([outgoing()]) == [Sent()]

        with pytest.raises(TransportError, match=r"(?i)certificate"):
            opened(cert=cert, key=key).send([outgoing()])
        with pytest.raises(TransportError):
            opened(cacert=ca).send([outgoing()])
    finally:
        for each in drivers:
            each.close()


def test_a_certificate_that_cannot_be_read_is_a_problem_of_the_configuration() -> None:
    with pytest.raises(ConfigurationError, match=r'Transport "async": the certificates .* cannot be used'):
        create_driver("async", "amqps://localhost", {"cacert": "/no/such/file.pem"}, DriverContext())
