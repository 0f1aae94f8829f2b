"""Fixtures of the tests of faults, and the table of their figures."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.deployment import Deployment
from tests.faults.figures import Figures

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
