"""Fixtures of the tests of faults, and the table of their figures."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.deployment import Deployment
from tests.faults.figures import Figures
from tests.faults.rabbitmq_deployment import RabbitDeployment
from tests.servers.fixtures import private_rabbitmq
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitMq

_FIGURES = pytest.StashKey[Figures]()
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.fault)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(_FIGURES, None)
    if figures is not None and figures.values:
        terminalreporter.section("reliability")
        for line in figures.lines():
            terminalreporter.line(line)


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Figures:
    return pytestconfig.stash.setdefault(_FIGURES, Figures())


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    try:
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
def deployment_in_memory(tmp_path: Path) -> Iterator[Deployment]:
    """Yield a deployment in a file system without a disk, where there is one: for floods, not for durability."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    deployment = Deployment(folder)
    try:
        yield deployment
    finally:
        deployment.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def broker() -> Iterator[RabbitMq]:
    """Yield a broker that the tests of faults share; it runs when a test begins."""
    with private_rabbitmq() as broker:
        yield broker


@pytest.fixture
def on_rabbitmq(tmp_path: Path, broker: RabbitMq) -> Iterator[Callable[..., RabbitDeployment]]:
    """Yield what makes a deployment on RabbitMQ, in a virtual host of its own, with options of the transport."""
    with ExitStack() as deployments:

        def make(port: int | None = None, **options: object) -> RabbitDeployment:
            deployment = RabbitDeployment(tmp_path, broker, port, **options)
            deployments.callback(deployment.close)
            return deployment

        yield make


@pytest.fixture
def proxy(broker: RabbitMq) -> Iterator[Proxy]:
    """Yield a proxy before the broker."""
    with Proxy(broker.address) as proxy:
        yield proxy
