"""What somebody else needs to write a transport, used as they do: from the installed package, outside the checkout."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIRD_PARTY = Path(__file__).with_name("third_party")
# Each defect, and a test of the suite that sees it.
DEFECTS = {
    "TestAckDoesNothing": "test_what_is_removed_does_not_come_again[Ack]",
    "TestSettlesWhatIsSomebodyElses": "test_a_late_settlement_does_not_touch_the_new_owners_message[ack]",
    "TestRequeuesToEverySubscriber": "test_what_one_subscriber_requeues_the_other_sees_once",
    "TestKnowsNoDelays": "test_a_delayed_message_is_not_visible_before_its_time",
    "TestKnowsNoPriorities": "test_a_higher_priority_comes_first",
}
# The suite waits for what never comes before it fails.
SLOW_DEFECTS = {
    "TestForgetsTheMessagesOfTheDead": "test_what_a_killed_consumer_held_comes_back_and_what_it_had_begun_counted",
    "TestKeepsWhatItHeld": "test_what_a_closed_consumer_held_is_another_ones",
    "TestLosesMessagesAtARestart": "test_nothing_is_lost_when_the_server_restarts_mid_stream",
}


def build(project: Path, folder: Path) -> Path:
    """Build the wheel of a project and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=project, capture_output=True, text=True, check=True, timeout=120)
    return next(folder.glob("*.whl"))


def install(site: Path, *wheels: Path) -> None:
    """Install wheels, and nothing that they depend on, into a folder; everything they need is there already."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["uv", "pip"]
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), *map(str, wheels)]
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which our wheel and the toy transport are installed."""
    copy = tmp_path_factory.mktemp("third_party") / "toy"
    shutil.copytree(THIRD_PARTY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    site = tmp_path_factory.mktemp("site")
    install(site, wheel, build(copy, tmp_path_factory.mktemp("theirs")))
    return site


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs Python on what is installed, in a folder outside the checkout."""
    ours = ("BUS_", "APP_ENV", "DATABASE_URL", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )

    return run


@pytest.fixture
def their_tests(tmp_path: Path) -> None:
    """Copy the test files of the third party into the working directory."""
    for name in ("test_toy_transport.py", "broken_toys.py"):
        shutil.copy(THIRD_PARTY / name, tmp_path)


def test_the_wheel_has_the_types_the_schema_and_the_suite_and_no_tests_of_ours(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {
        "bus/py.typed",
        "bus/config/messenger.schema.json",
        "bus/testing/pytest_plugin.py",
        "bus/testing/conformance/__init__.py",
    } <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"bus"}
    assert {name for name in names if name.endswith((".py", ".json", ".typed"))} == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "bus").rglob("*")
        if path.suffix in {".py", ".json"} or path.name == "py.typed"
    }


def test_what_runs_is_what_was_installed(run: Run, site: Path) -> None:
    program = "import bus, toy_transport; from bus.transports.registry import schemes; print(bus.__file__, *schemes())"

    printed = run("-c", program).stdout.split()

    assert Path(printed[0]).is_relative_to(site)
    assert "toy" in printed


@pytest.mark.usefixtures("their_tests")
def test_a_transport_of_somebody_elses_passes_the_suite(run: Run) -> None:
    done = run("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-W", "error", "test_toy_transport.py")

    assert done.returncode == 0, done.stdout
    summary = re.search(r"^(\d+) passed, (\d+) skipped in ", done.stdout, re.MULTILINE)
    assert summary is not None
    assert int(summary[1]) > 70
    # What it does not offer is skipped, by name.
    assert "SKIPPED" in done.stdout
    assert "TestToyTransport cannot list messages" in done.stdout
    assert "does not have the feature" not in done.stdout


@pytest.mark.usefixtures("their_tests")
@pytest.mark.parametrize(
    "defects", [DEFECTS, pytest.param(SLOW_DEFECTS, marks=pytest.mark.full)], ids=["quick", "slow"]
)
def test_the_suite_fails_for_transports_with_a_defect(run: Run, defects: dict[str, str]) -> None:
    tests = [f"broken_toys.py::{name}::{test}" for name, test in defects.items()]

    done = run("-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", *tests)

    failed = set(re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE))
    assert failed == set(tests), done.stdout
    assert f"{len(tests)} failed in " in done.stdout


SHOP = """
    from dataclasses import dataclass
    from pathlib import Path
    from bus import handler

    @dataclass(frozen=True)
    class OrderPlaced:
        order_id: str

    @handler
    def note(event: OrderPlaced) -> None:
        with Path("orders.txt").open("a") as file:
            file.write(event.order_id + "\\n")
"""
CONFIG = """
    messenger:
      imports: [shop]
      transports:
        async: {dsn: 'toy:///FOLDER/toy.db', options: {queue: orders}}
      routing: {shop.OrderPlaced: async}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    (tmp_path / "messenger.yaml").write_text(textwrap.dedent(CONFIG).replace("/FOLDER", str(tmp_path)))
    return tmp_path


def test_its_dsn_works_in_a_configuration(run: Run, shop: Path) -> None:
    dispatched = run("-c", "import bus, shop; bus.dispatch(shop.OrderPlaced('o-1'))")
    sent = run("-m", "bus", "dispatch", "shop.OrderPlaced", '{"order_id": "o-2"}')
    consumed = run("-m", "bus", "consume", "async", "--stop-when-empty")

    assert (dispatched.returncode, sent.returncode, consumed.returncode) == (0, 0, 0), consumed.stderr
    assert (shop / "orders.txt").read_text().split() == ["o-1", "o-2"]


def test_its_options_are_checked_as_those_of_ours_are(run: Run, shop: Path) -> None:
    text = (shop / "messenger.yaml").read_text().replace("queue: orders", "qeue: orders")
    (shop / "messenger.yaml").write_text(text)

    done = run("-m", "bus", "config", "check")

    assert done.returncode == 3
    assert 'unknown option "qeue"' in done.stderr


def test_the_fixtures_for_tests_are_there_once_the_package_is_installed(run: Run, shop: Path) -> None:
    (shop / "test_shop.py").write_text(
        textwrap.dedent("""
            import shop, bus

            def test_orders_are_sent(messenger):
                bus.dispatch(shop.OrderPlaced("o-1"))
                messenger.sent("async").assert_exactly(shop.OrderPlaced("o-1"))
        """)
    )
    pytest_ = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_shop.py")

    with_it = run(*pytest_)
    without = run(*pytest_, "-p", "no:bus.testing.pytest_plugin")

    assert "1 passed in " in with_it.stdout, with_it.stdout + with_it.stderr
    assert "fixture 'messenger' not found" in without.stdout
