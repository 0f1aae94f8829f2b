from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.cli.conftest import CONFIGURATION, Shop
from tests.faults.processes import Process
from tests.faults.waiting import wait_until

MADE_IN_PYTHON = """
from bus import Messenger, WorkerOptions
from bus.config.schema import MessengerConfig, TransportConfig

import shop


def make_messenger() -> Messenger:
    config = MessengerConfig(
        transports={"async": TransportConfig(dsn="sqlite:///bus.db?queue_name=async")},
        routing={"order.placed": ("async",)},
        imports=("shop",),
    )
    return Messenger(config)


made = make_messenger()
not_a_messenger = "text"

if __name__ == "__main__":
    options = WorkerOptions(stop_when_empty=True)
    make_messenger().consume(["async"], options, processes=2, app="made_in_python:make_messenger")
"""

WITHOUT_GUARD = """
from made_in_python import make_messenger

make_messenger().consume(["async"], processes=2, app="without_guard:make_messenger")
"""

WITHOUT_WATCHFILES = """
import sys

sys.modules["watchfiles"] = None
from bus.cli.main import main

main()
"""


def run(shop: Shop, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=shop.path,
        env=shop.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def made(shop: Shop) -> Shop:
    """Return a shop whose messenger is made in Python, beside the configuration file of the same transports."""
    (shop.path / "made_in_python.py").write_text(MADE_IN_PYTHON)
    return shop


def test_processes_handle_what_is_there(shop: Shop) -> None:
    orders = [f"o-{number}" for number in range(20)]
    shop.dispatch(*orders)

    shop.ok("consume", "async", "--processes", "2", "--stop-when-empty")

    assert sorted(shop.shipped()) == sorted(orders)


def test_the_installed_command_starts_processes_that_find_the_application(shop: Shop) -> None:
    shop.dispatch("o-1")

    done = shop.installed_bus("consume", "async", "--processes", "1", "--stop-when-empty")

    assert done.returncode == 0, done.stderr
    assert shop.shipped() == ["o-1"]


def test_the_environment_speaks_to_the_supervisor_alone(shop: Shop) -> None:
    shop.dispatch("o-1", "o-2")
    variables = {"BUS_CONSUME_PROCESSES": "1", "BUS_CONSUME_LIMIT": "1"}

    done = shop.bus("consume", "async", variables=variables)

    assert done.returncode == 0, done.stderr
    assert shop.shipped() == ["o-1"]
    assert done.stderr.count("Supervisor started") == 1


def test_all_receivers_are_chosen_by_each_process(shop: Shop) -> None:
    shop.dispatch("o-1")

    done = shop.bus("consume", "--all", "--exclude-receivers", "failed", "--processes", "1", "--stop-when-empty")

    assert "Worker started: receivers async" in done.stderr
    assert shop.shipped() == ["o-1"]


def test_without_a_name_and_a_terminal_the_receivers_are_listed_once(shop: Shop) -> None:
    shop.configure(CONFIGURATION.replace("    failed:", "    slow: 'sql://default?queue_name=slow'\n    failed:"))

    done = shop.bus("consume", "--processes", "2")

    assert done.returncode == 2
    assert done.stderr.count('there are "async", "slow", "failed"') == 1
    assert "Supervisor" not in done.stderr


def test_reload_without_its_library_says_what_to_install(shop: Shop) -> None:
    (shop.path / "without_watchfiles.py").write_text(WITHOUT_WATCHFILES)

    done = run(shop, "without_watchfiles.py", "consume", "async", "--reload")

    assert done.returncode == 3
    assert 'install it with: pip install "messenger-bus[reload]", or: uv add "messenger-bus[reload]"' in done.stderr


# --- messengers that are made in Python ---


@pytest.mark.parametrize("app", ["made_in_python:make_messenger", "made_in_python:made"])
@pytest.mark.parametrize("processes", [[], ["--processes", "1"]])
def test_the_command_works_with_a_messenger_that_is_made_in_python(made: Shop, app: str, processes: list[str]) -> None:
    made.dispatch("o-1")
    (made.path / "messenger.yaml").unlink()

    made.ok("--app", app, "consume", "async", "--stop-when-empty", *processes)

    assert made.shipped() == ["o-1"]


def test_an_app_that_is_no_messenger_is_refused(made: Shop) -> None:
    done = made.bus("stats", "--app", "made_in_python:not_a_messenger")

    assert done.returncode == 3
    assert '--app "made_in_python:not_a_messenger" is of the type "str"; expected a Messenger' in done.stderr


def test_a_program_consumes_in_processes(made: Shop) -> None:
    made.dispatch("o-1", "o-2")

    done = run(made, "made_in_python.py")

    assert done.returncode == 0, done.stderr
    assert sorted(made.shipped()) == ["o-1", "o-2"]
    assert "Supervisor started" not in done.stderr, "a program decides about its logs"


def test_a_program_without_a_guard_starts_no_processes_of_processes(made: Shop) -> None:
    (made.path / "without_guard.py").write_text(WITHOUT_GUARD)

    done = run(made, "without_guard.py")

    assert done.returncode == 1
    assert 'put that call under if __name__ == "__main__":' in done.stderr.splitlines()[-1]


# --- stopping ---


def test_stop_workers_says_whom_it_reaches(shop: Shop) -> None:
    shared = shop.bus("stop-workers")
    shop.configure(CONFIGURATION.replace("messenger:", "messenger:\n  store: 'memory://'"))
    alone = shop.bus("stop-workers", variables={"TMPDIR": str(shop.path)})

    assert shared.returncode == alone.returncode == 0
    assert shared.stderr == ""
    assert "workers on other hosts are not reached" in alone.stderr
    assert shared.stdout == alone.stdout == "The running workers are asked to stop; each one looks every 5 s.\n"


@pytest.fixture
def start(shop: Shop) -> Iterator[Callable[..., Process]]:
    """Yield a function that starts a program in the shop's folder; it is ended with the test."""
    started: list[Process] = []

    def begin(*command: str) -> Process:
        started.append(Process(command, shop.path, {"TMPDIR": str(shop.path)}))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def test_stop_workers_reaches_workers_without_a_shared_store_on_this_host(
    shop: Shop, start: Callable[..., Process]
) -> None:
    shop.configure(CONFIGURATION.replace("messenger:", "messenger:\n  store: 'memory://'"))
    worker = start(sys.executable, "-m", "bus", "consume", "async")
    worker.wait_for_line("Worker started")

    assert start(sys.executable, "-m", "bus", "stop-workers").wait() == 0

    assert worker.wait() == 0


def test_under_nohup_sighup_does_not_end_a_worker(shop: Shop, start: Callable[..., Process]) -> None:
    worker = start("nohup", sys.executable, "-m", "bus", "consume", "async")
    worker.wait_for_line("Worker started")

    worker.send(signal.SIGHUP)
    shop.dispatch("o-1")
    wait_until(lambda: shop.shipped() == ["o-1"], "the order is shipped")

    worker.stop()
