"""``bus consume --processes``: children die, supervisors die, code changes, signals come, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.application import Job
from tests.faults.deployment import CONFIGURATION, Deployment, hold_for
from tests.faults.ledger import BEGUN, DONE
from tests.faults.processes import Process
from tests.faults.waiting import wait_until

CRASH_LOOP = 5
GRACE_EXCEEDED = 6


def supervised(deployment: Deployment, *arguments: str, processes: int = 2) -> Process:
    """Start a supervisor and wait until its workers work."""
    supervisor = deployment.worker("--processes", str(processes), *arguments)
    wait_until(lambda: ready(supervisor) >= processes or not supervisor.alive, "every worker process works")
    assert supervisor.alive, supervisor.output
    return supervisor


def ready(supervisor: Process) -> int:
    return sum("Worker started" in line for line in supervisor.lines)


def children(supervisor: Process) -> list[int]:
    """Return the numbers of the worker processes in the order of their starts, dead ones too."""
    return [int(each) for each in re.findall(r"Worker process (\d+) started", supervisor.output)]


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_gone(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(lives(pid) for pid in pids)


def import_also(deployment: Deployment, module: str) -> None:
    text = CONFIGURATION.replace("imports: [", f"imports: [{module}, ").format(failed="bus.db")
    (deployment.folder / "messenger.yaml").write_text(text)


# --- deaths of children ---


def test_a_child_that_dies_in_a_handler_is_replaced_alone_and_its_message_is_handled(deployment: Deployment) -> None:
    supervisor = supervised(deployment)
    deployment.publish([Job(1, "kill itself once")])
    deployment.wait_for(DONE, 1)

    dead = deployment.journal.of(BEGUN)[0].pid
    supervisor.wait_for_line(f"Worker process {dead} was killed by SIGKILL; a new one starts in 0.5 s")
    wait_until(lambda: len(children(supervisor)) == 3, "the dead one is replaced")
    other = next(pid for pid in children(supervisor)[:2] if pid != dead)
    assert lives(other)
    supervisor.stop()
    assert deployment.totals().lost == 0
    assert len(children(supervisor)) == 3


@pytest.mark.parametrize("does", ["kill itself", "leave as if done"])
def test_handlers_that_kill_their_process_again_and_again_do_not_end_the_supervisor(
    does: str, deployment: Deployment
) -> None:
    killers = {5, 25}
    deployment.publish([Job(number, does if number in killers else "nothing") for number in range(30)])
    supervisor = supervised(deployment)
    deployment.wait_until_empty(supervisor)

    assert deployment.failed() == sorted(killers)
    supervisor.stop()
    assert supervisor.output.count("a new one starts in") >= 5, "as many as would be a crash loop"
    assert deployment.totals().lost == 0
    assert set(deployment.journal.effects()) == set(range(30)) - killers


def test_processes_that_die_before_they_are_ready_end_the_supervisor_with_code_5(deployment: Deployment) -> None:
    (deployment.folder / "dies.py").write_text("import os\nos._exit(7)\n")
    import_also(deployment, "dies")

    supervisor = deployment.worker("--processes", "4")

    assert supervisor.wait() == CRASH_LOOP
    assert supervisor.lines[-1] == (
        "5 worker processes ended within 60 s and before they were ready; the last one ended with exit code 7"
    )


def test_a_process_that_says_why_it_cannot_start_ends_the_command_as_a_single_worker_does(
    deployment: Deployment,
) -> None:
    (deployment.folder / "broken.py").write_text("import no_such_library\n")
    import_also(deployment, "broken")

    supervisor = deployment.worker("--processes", "2")

    assert supervisor.wait() == 3
    assert sum("no_such_library" in line for line in supervisor.lines) == 1


# --- deaths of the supervisor ---


def test_a_killed_supervisor_leaves_no_idle_child_and_none_after_the_grace(deployment: Deployment) -> None:
    supervisor = supervised(deployment, "--shutdown-timeout", "2s", processes=3)
    deployment.publish([Job(1, "never return")])
    deployment.wait_for(BEGUN, 1)
    busy = deployment.journal.of(BEGUN)[0].pid
    idle = [pid for pid in children(supervisor) if pid != busy]

    supervisor.kill()

    wait_until(all_gone(idle), "the idle children are gone", within=5.0)
    wait_until(all_gone([busy]), "the busy one is gone", within=10.0)
    assert deployment.counts().ready == 1


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_counts_once(number: signal.Signals, deployment: Deployment) -> None:
    supervisor = supervised(deployment)
    deployment.publish([Job(1, "sleep", 2.0)])
    deployment.wait_for(BEGUN, 1)

    supervisor.send_to_group(number)

    assert supervisor.wait() == 0, supervisor.output
    assert deployment.journal.effects() == {1: 1}
    assert deployment.is_empty()
    assert all_gone(children(supervisor))()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
def test_a_signal_while_the_children_start_ends_all_at_once_and_without_a_trace(
    number: signal.Signals, seconds: float, deployment: Deployment
) -> None:
    supervisor = deployment.worker("--processes", "2")
    supervisor.wait_for_line("Worker process")
    hold_for(seconds)

    supervisor.send_to_group(number)

    assert supervisor.wait(within=10.0) == 0, supervisor.output
    assert "Traceback" not in supervisor.output


def test_a_second_signal_ends_stuck_handlers_at_once_and_their_messages_come_back(deployment: Deployment) -> None:
    supervisor = supervised(deployment, "--shutdown-timeout", "1h")
    deployment.publish([Job(1, "never return")])
    deployment.wait_for(BEGUN, 1)

    supervisor.send(signal.SIGTERM)
    supervisor.wait_for_line("The supervisor asks for it")
    wait_until(lambda: send_again(supervisor), "the second signal is taken for one", every=0.25)

    assert supervisor.wait() == GRACE_EXCEEDED
    assert deployment.counts().ready == 1


def send_again(supervisor: Process) -> bool:
    # A second signal within a second is taken for the first one, which often comes twice.
    if "A second SIGTERM came" not in supervisor.output:
        supervisor.send(signal.SIGTERM)
    return not supervisor.alive


def test_handlers_that_run_longer_than_the_grace_cost_exit_code_6(deployment: Deployment) -> None:
    supervisor = supervised(deployment, "--shutdown-timeout", "500ms")
    deployment.publish([Job(1, "never return")])
    deployment.wait_for(BEGUN, 1)

    supervisor.send(signal.SIGTERM)

    assert supervisor.wait() == GRACE_EXCEEDED
    assert "Handlers were still running when the time to shut down was over" in supervisor.lines[-1]
    assert deployment.counts().ready == 1


@pytest.mark.full
def test_a_child_that_can_do_nothing_any_more_is_killed(deployment: Deployment) -> None:
    supervisor = supervised(deployment, "--shutdown-timeout", "500ms")
    deployment.publish([Job(1, "hold the interpreter")])
    deployment.wait_for(BEGUN, 1)

    supervisor.send(signal.SIGTERM)

    assert supervisor.wait() == GRACE_EXCEEDED
    assert "has not ended in time and is killed" in supervisor.output


def test_sighup_under_load_replaces_every_child_and_loses_nothing(deployment: Deployment) -> None:
    supervisor = supervised(deployment)
    deployment.publish([Job(number, "sleep", 0.005) for number in range(600)])
    deployment.wait_for(DONE, count=20)

    supervisor.send(signal.SIGHUP)

    supervisor.wait_for_line("Every worker process has been replaced")
    assert len(children(supervisor)) == 4
    assert all_gone(children(supervisor)[:2])()
    deployment.wait_until_empty(supervisor)
    assert set(deployment.journal.effects().values()) == {1}
    assert deployment.totals().lost == deployment.totals().in_failure_transport == 0
    assert {event.pid for event in deployment.journal.of(DONE)} & set(children(supervisor)[2:])
    supervisor.stop()


def test_sighup_to_the_whole_group_ends_no_child(deployment: Deployment) -> None:
    supervisor = supervised(deployment)
    deployment.publish([Job(1, "sleep", 1.0)])
    deployment.wait_for(BEGUN, 1)

    supervisor.send_to_group(signal.SIGHUP)

    supervisor.wait_for_line("Every worker process has been replaced")
    assert deployment.journal.effects() == {1: 1}
    supervisor.stop()


@pytest.fixture
def _without_nohup() -> Iterator[None]:
    """Have children obey SIGHUP, also where the tests themselves run under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_without_nohup")
def test_sighup_lets_a_single_worker_finish_and_end(deployment: Deployment) -> None:
    worker = deployment.worker()
    deployment.publish([Job(1, "sleep", 0.5)])
    deployment.wait_for(BEGUN, 1)

    worker.send(signal.SIGHUP)

    assert worker.wait() == 0
    assert deployment.journal.effects() == {1: 1}


def test_sigusr1_shows_what_the_handlers_of_the_children_do(deployment: Deployment) -> None:
    supervisor = supervised(deployment)
    deployment.publish([Job(1, "never return")])
    deployment.wait_for(BEGUN, 1)

    supervisor.send(signal.SIGUSR1)

    supervisor.wait_for_line("in _never_return")
    assert supervisor.alive


# --- code that changes ---


def test_reload_keeps_the_old_code_while_the_new_one_does_not_import(deployment: Deployment) -> None:
    code = deployment.folder / "extra.py"
    code.write_text("print('the first code')\n")
    import_also(deployment, "extra")
    supervisor = deployment.worker("--reload")
    supervisor.wait_for_line("Worker started")
    supervisor.wait_for_line("Watching")
    (first,) = children(supervisor)

    # A watcher that has just begun may miss what happens at that moment: the file is written until it is noticed.
    wait_until(
        lambda: rewrite_until(supervisor, code, "def broken(:\n", "the present ones go on"), "it is refused", every=0.5
    )
    assert lives(first)
    deployment.publish([Job(1)])
    deployment.wait_for(DONE, 1)
    assert deployment.journal.of(DONE)[0].pid == first

    code.write_text("print('the second code, which works')\n")
    supervisor.wait_for_line("Every worker process has been replaced")
    assert "the second code, which works" in supervisor.output
    assert not lives(first)
    supervisor.stop()


def rewrite_until(supervisor: Process, code: Path, text: str, line: str) -> bool:
    if "The code has changed" not in supervisor.output:
        code.write_text(text)
    return line in supervisor.output


# --- bus stop-workers ---


def test_stop_workers_ends_every_running_worker_and_none_that_starts_later(deployment: Deployment) -> None:
    supervisor, single = supervised(deployment), deployment.worker()
    single.wait_for_line("Worker started")
    deployment.publish([Job(1, "sleep", 1.0)])
    deployment.wait_for(BEGUN, 1)

    stopping = deployment.processes.start("-m", "bus", "stop-workers")
    assert stopping.wait() == 0
    later = deployment.worker()
    later.wait_for_line("Worker started")

    assert supervisor.wait(within=20.0) == single.wait(within=20.0) == 0
    assert "Worker stopped: bus stop-workers was called" in single.output
    assert deployment.journal.effects() == {1: 1}
    later.stop()
    assert "SIGTERM received" in later.output


def test_a_child_that_replaces_a_dead_one_after_stop_workers_was_called_ends_too(deployment: Deployment) -> None:
    supervisor = supervised(deployment, processes=1)
    (child,) = children(supervisor)
    assert deployment.processes.start("-m", "bus", "stop-workers").wait() == 0
    os.kill(child, signal.SIGKILL)

    started = time.monotonic()
    assert supervisor.wait(within=20.0) == 0
    assert time.monotonic() - started < 20.0


# --- the other ends ---


def test_limits_end_each_process_and_then_the_command(deployment: Deployment) -> None:
    deployment.publish([Job(number) for number in range(20)])

    supervisor = deployment.worker("--processes", "2", "--stop-when-empty")

    assert supervisor.wait() == 0
    assert set(deployment.journal.effects()) == set(range(20))
    assert len(children(supervisor)) == 2


def test_a_process_that_reaches_its_memory_limit_is_replaced(deployment: Deployment) -> None:
    supervisor = supervised(deployment, "--memory-limit", "1M", processes=1)
    deployment.publish([Job(1)])
    supervisor.wait_for_line("has reached its memory limit; a new one takes its place")
    wait_until(lambda: len(children(supervisor)) == 2, "a new one is there")

    supervisor.stop()
    assert deployment.journal.effects() == {1: 1}
