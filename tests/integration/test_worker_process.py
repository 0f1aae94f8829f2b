"""Workers as processes of their own: signals, deaths, and what becomes of the messages."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).with_name("worker_program.py")
ROOT = Path(__file__).parents[2]
DEADLINE = 30.0  # seconds


def load_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("worker_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["worker_program"] = module
    spec.loader.exec_module(module)
    return module


program = load_program()


def eventually(condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    ends = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        threading.Event().wait(0.01)


class Site:
    """A folder with a queue, a ledger and the workers on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus = program.messenger(folder)
        self.workers: list[subprocess.Popen[str]] = []

    def send(self, *names: str, do: str = "nothing", kind: str = "Task") -> None:
        self.bus.bus.dispatch_many([getattr(program, kind)(name, do) for name in names])

    def start(self, failpoints: str = "", **options: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "BUS_FAILPOINTS": failpoints}
        command = [sys.executable, str(PROGRAM), str(self.folder), json.dumps(options)]
        worker = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.workers.append(worker)
        return worker

    def run(self, failpoints: str = "", **options: object) -> int:
        """Run a worker until the queue is empty, or it dies."""
        worker = self.start(failpoints, stop_when_empty=True, **options)
        worker.communicate(timeout=DEADLINE)
        return worker.returncode

    @property
    def ledger(self) -> list[str]:
        return (self.folder / "ledger").read_text().splitlines()

    def saw(self, line: str) -> None:
        eventually(lambda: line in self.ledger or self.workers[-1].poll() is not None)
        assert line in self.ledger, "the worker ended before"

    def go(self) -> None:
        (self.folder / "go").touch()

    def handled(self) -> Counter[str]:
        return Counter(line.removeprefix("end ") for line in self.ledger if line.startswith("end "))

    def left(self, transport: str = "async") -> list[str]:
        return [each.message.name for each in self.bus.transports[transport].peek(1000)]

    def ready(self) -> int:
        return self.bus.transports["async"].counts().ready

    def ends(self, worker: subprocess.Popen[str], within: float = DEADLINE) -> tuple[int, str]:
        """Return exit code and log of a worker that is to end by itself."""
        _, log = worker.communicate(timeout=within)
        return worker.returncode, log


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for worker in site.workers:
        worker.kill()
        if worker.stderr is not None and not worker.stderr.closed:
            # Shown by pytest where the test failed.
            sys.stderr.write(worker.communicate()[1])
    site.bus.close()


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_idle_worker_ends_at_once_on_a_signal(site: Site, number, concurrency):
    worker = site.start(concurrency=concurrency)
    site.saw("idle")

    worker.send_signal(number)

    code, log = site.ends(worker, within=2.0)
    assert code == 0
    assert f"INFO bus.worker Worker stopped: {number.name} received" in log
    assert site.ledger[-1] == "ended"


def test_a_worker_that_waits_for_a_server_to_come_back_ends_at_once_on_a_signal(site: Site):
    worker = site.start(down=True)
    site.saw("idle")
    threading.Event().wait(1.0)  # into the second, longer wait

    worker.send_signal(signal.SIGTERM)

    code, log = site.ends(worker, within=2.0)
    assert code == 0
    assert "cannot be read: ConnectionLostError: there is no server" in log


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_signal_in_a_handler_lets_it_finish_and_gives_back_what_was_fetched(site: Site, concurrency):
    site.send(*(f"quick{number}" for number in range(5)))
    site.send("slow", do="wait")
    site.send(*(f"later{number}" for number in range(60)), do="wait")
    worker = site.start(concurrency=concurrency)
    site.saw("start slow")

    worker.send_signal(signal.SIGTERM)
    assert worker.stderr is not None
    while "SIGTERM received: finishing" not in worker.stderr.readline():
        assert worker.poll() is None
    site.go()

    code, _ = site.ends(worker)
    assert code == 0
    assert site.ready() == len(site.left()) >= 60 - concurrency + 1
    assert site.run() == 0
    assert set(site.handled().values()) == {1}
    assert len(site.handled()) == 66


def test_a_signal_is_seen_while_the_main_thread_is_in_a_c_call(site: Site):
    site.send("blocked", do="block_in_sqlite")
    worker = site.start()
    site.saw("start blocked")

    worker.send_signal(signal.SIGTERM)

    assert worker.stderr is not None
    while "SIGTERM received: finishing" not in worker.stderr.readline():
        assert worker.poll() is None
    assert "end blocked" not in site.ledger
    assert site.ends(worker)[0] == 0
    assert site.ledger[-2:] == ["end blocked", "ended"]


def test_a_signal_that_is_sent_twice_at_once_still_lets_the_handler_finish(site: Site):
    site.send("slow", do="wait")
    worker = site.start()
    site.saw("start slow")

    worker.send_signal(signal.SIGINT)
    worker.send_signal(signal.SIGINT)
    threading.Event().wait(0.3)
    site.go()

    assert site.ends(worker)[0] == 0
    assert site.handled() == {"slow": 1}


@pytest.mark.parametrize(("kind", "do"), [("Task", "never"), ("Task", "spin"), ("AsyncTask", "never")])
@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_handler_that_never_returns_costs_exit_code_6_and_its_message_comes_back(site: Site, kind, do, concurrency):
    site.send("quick")
    site.send("stuck", do=do, kind=kind)
    worker = site.start(concurrency=concurrency, shutdown_timeout=0.5)
    site.saw("start stuck")

    worker.send_signal(signal.SIGTERM)

    code, log = site.ends(worker, within=10.0)
    assert code == 6
    assert f'(__main__.{kind}) from "async" has been handled for' in log
    assert site.left() == ["stuck"]
    assert site.ready() == 1
    (again,) = site.bus.transports["async"].driver.get(10)
    assert again.claim.deliveries == 1


def test_a_second_signal_ends_a_stuck_worker_before_its_grace_is_over(site: Site):
    site.send("stuck", do="never")
    worker = site.start()
    site.saw("start stuck")

    worker.send_signal(signal.SIGTERM)
    threading.Event().wait(1.1)
    worker.send_signal(signal.SIGTERM)

    code, log = site.ends(worker, within=5.0)
    assert code == 6
    assert "a second SIGTERM came" in log
    assert site.ready() == 1


def test_a_handler_that_has_sigterm_ignored_does_not_make_the_worker_deaf(site: Site):
    site.send("deaf", do="ignore_sigterm")
    worker = site.start()
    site.saw("end deaf")
    site.saw("idle")

    worker.send_signal(signal.SIGTERM)

    assert site.ends(worker, within=2.0)[0] == 0


def test_sigusr1_shows_what_every_thread_does(site: Site):
    site.send("slow", do="wait")
    worker = site.start(concurrency=2)
    site.saw("start slow")

    worker.send_signal(signal.SIGUSR1)

    assert worker.stderr is not None
    while "in wait" not in worker.stderr.readline():
        assert worker.poll() is None
    site.go()
    worker.send_signal(signal.SIGTERM)
    assert site.ends(worker)[0] == 0


def test_an_idle_worker_uses_no_time_worth_mentioning(site: Site):
    worker = site.start()
    site.saw("idle")
    ticks = os.sysconf("SC_CLK_TCK")

    def used() -> float:
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    before, began = used(), time.monotonic()
    threading.Event().wait(3.0)

    assert (used() - before) / (time.monotonic() - began) < 0.02


# --- handlers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Task", "AsyncTask"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_handlers_that_do_their_worst_are_failed_handlers_and_nothing_more(site: Site, concurrency, kind):
    worst = ["exit", "interrupt", "generator_exit", "hostile", "group", "fail"]
    for do in worst:
        site.send(do, do=do, kind=kind)
    site.send("good", kind=kind)

    assert site.run(concurrency=concurrency) == 0

    assert site.handled() == {"good": 1}
    assert sorted(site.left("failed")) == sorted(worst)
    assert site.left() == []


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("do", ["fork", "fork_and_exit"])
def test_a_child_that_a_handler_forked_settles_nothing(site: Site, do, concurrency):
    site.send("parent", do=do)
    site.send("after")

    assert site.run(concurrency=concurrency) == 0

    assert "child 1" in site.ledger
    assert site.ledger.count("ended") == 1
    assert site.handled()["after"] == 1
    assert site.left() == site.left("failed") == []


# --- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hit", "concurrency"), [(1, 1), (3, 3)])
@pytest.mark.parametrize("step", ["received", "handler_start", "handler_end", "before_settle", "after_settle"])
def test_a_worker_that_is_killed_at_any_step_loses_nothing(site: Site, step, hit, concurrency):
    names = [f"m{number}" for number in range(300)]
    site.send(*names)

    assert site.run(f"{step}=kill9@{hit}", concurrency=concurrency) == -signal.SIGKILL
    held = site.bus.transports["async"].counts().in_flight
    assert site.run(concurrency=concurrency) == 0

    handled = site.handled()
    assert set(handled) == set(names)
    assert max(handled.values()) <= 2
    assert sum(handled.values()) - len(names) <= held <= 100
    assert site.left() == site.left("failed") == []


@pytest.mark.parametrize("step", ["handler_end", "before_settle", "after_settle", "before_failure", "after_failure"])
def test_a_failing_message_whose_worker_is_killed_at_any_step_is_kept(site: Site, step):
    site.send("bad", do="fail")

    codes = [site.run(f"{step}=kill9", retries=1) for _ in range(2)]
    assert -signal.SIGKILL in codes
    while site.left():
        assert site.run(retries=1) == 0

    assert 2 <= site.ledger.count("start bad") <= 4
    # Who dies between storing a message and settling its original stores it again.
    assert site.left("failed").count("bad") == (1 + codes.count(-signal.SIGKILL) if step == "after_failure" else 1)


def test_a_message_that_kills_its_worker_goes_to_the_failure_transport_and_49_innocents_are_handled(site: Site):
    innocents = [f"i{number}" for number in range(49)]
    site.send(*innocents[:20])
    site.send("killer", do="kill")
    site.send(*innocents[20:])

    codes = []
    while not codes or codes[-1] != 0:
        codes.append(site.run(concurrency=2))
        assert len(codes) <= 5

    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert set(site.handled()) == set(innocents)
    assert max(site.handled().values()) <= 2
    assert site.ledger.count("start killer") == 3
    (failed,) = site.bus.transports["failed"].peek(10)
    assert "was delivered 4 times without ever being settled" in str(failed)
    assert site.left() == []


def test_a_message_that_is_given_back_again_and_again_is_not_condemned(site: Site):
    site.send("first", do="wait")
    site.send("waiting")
    for count in range(1, 6):
        worker = site.start(fetch_size=2, shutdown_timeout=0.0)
        eventually(lambda count=count: site.ledger.count("start first") == count)
        worker.send_signal(signal.SIGTERM)
        assert site.ends(worker)[0] == 6

    site.go()
    assert site.run() == 0
    assert set(site.handled()) == {"first", "waiting"}
    assert site.left("failed") == []


def test_eight_workers_on_one_queue_handle_every_message_once(site: Site):
    names = [f"m{number}" for number in range(2000)]
    site.send(*names)

    workers = [site.start(stop_when_empty=True) for _ in range(8)]
    assert [site.ends(worker, within=60.0)[0] for worker in workers] == [0] * 8

    assert site.handled() == dict.fromkeys(names, 1)


def test_a_limit_of_10_with_a_concurrency_of_4_handles_exactly_10(site: Site):
    site.send(*(f"m{number}" for number in range(30)))
    worker = site.start(limit=10, concurrency=4)

    code, log = site.ends(worker)

    assert code == 0
    assert "Worker stopped: message limit of 10 reached" in log
    assert sum(site.handled().values()) == 10
    assert site.ready() == 20
