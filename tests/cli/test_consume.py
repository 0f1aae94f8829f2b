from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from .conftest import CONFIGURATION, Shop

ORDER = '{"order_id": "o-1"}'
TWO_RECEIVERS = CONFIGURATION.replace("    failed:", "    slow: 'sql://default?queue_name=slow'\n    failed:")


def test_messages_are_handled_until_the_transport_is_empty(shop: Shop) -> None:
    shop.dispatch("o-1", "o-2")

    done = shop.bus("consume", "async", "--stop-when-empty")

    assert done.returncode == 0
    assert shop.shipped() == ["o-1", "o-2"]
    assert (done.stdout, "Worker started" in done.stderr, "Worker stopped" in done.stderr) == ("", True, True)


def test_a_limit_ends_the_worker_and_leaves_the_rest(shop: Shop) -> None:
    shop.dispatch("o-1", "o-2", "o-3")

    shop.ok("consume", "async", "--limit", "2")

    assert shop.shipped() == ["o-1", "o-2"]
    assert shop.counts()["async"]["ready"] == 1


@pytest.mark.parametrize(
    "limit", [["--time-limit", "0.2"], ["--failure-limit", "1"], ["--memory-limit", "1M"], ["--limit", "1"]]
)
def test_every_limit_ends_the_worker_with_success(shop: Shop, limit: list[str]) -> None:
    shop.dispatch("o-1", type_name="order.cancelled")

    assert shop.bus("consume", "async", *limit).returncode == 0


def test_an_option_can_be_given_as_a_variable(shop: Shop) -> None:
    shop.dispatch("o-1", "o-2")

    done = shop.bus("consume", "async", variables={"BUS_CONSUME_LIMIT": "1"})

    assert done.returncode == 0
    assert shop.shipped() == ["o-1"]


def test_without_a_name_the_only_transport_is_taken(shop: Shop) -> None:
    shop.dispatch("o-1")

    shop.ok("consume", "--stop-when-empty")

    assert shop.shipped() == ["o-1"]


def test_without_a_name_and_a_terminal_the_receivers_are_listed(shop: Shop) -> None:
    shop.configure(TWO_RECEIVERS)

    done = shop.bus("consume")

    assert done.returncode == 2
    assert '"async", "slow", "failed"' in done.stderr


def test_without_a_name_a_person_is_asked(shop: Shop) -> None:
    shop.configure(TWO_RECEIVERS)
    shop.dispatch("o-1")

    exit_code, shown = shop.on_a_terminal("consume", "--stop-when-empty", typed="async\n")

    assert exit_code == 0
    assert "Receiver" in shown
    assert shop.shipped() == ["o-1"]


def test_all_means_every_transport_but_failure_transports_and_excluded_ones(shop: Shop) -> None:
    shop.configure(TWO_RECEIVERS)

    started = [
        shop.bus("consume", "--all", *more, "--stop-when-empty").stderr.splitlines()[0].split("receivers ")[1]
        for more in ([], ["--exclude-receivers", "slow"])
    ]

    assert started == ["async, slow", "async"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["asnyc"], 'There is no receiver "asnyc"; valid ones are "async", "failed"; did you mean "async"?'),
        (["async", "--all"], "Give names of receivers, or --all."),
        (["--exclude-receivers", "async"], "--exclude-receivers goes with --all."),
        (["async", "--bus", "other"], 'There is no bus "other"'),
        (["async", "--limit", "0"], "--limit"),
        (["async", "--time-limit", "0"], "it must be more than 0"),
        (["async", "--memory-limit", "lots"], "--memory-limit"),
        (["async", "--fetch-size", "0"], 'expected "auto" or a number from 1 up'),
        (["async", "--shutdown-timeout", "25"], "the number 25 has no unit"),
        (["async", "--processes", "0"], "is not in the range"),
        (["no_such", "--processes", "2"], 'no receiver "no_such"'),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(shop: Shop, arguments: list[str], text: str) -> None:
    done = shop.bus("consume", *arguments)

    assert done.returncode == 2
    assert text in " ".join(done.stderr.split())


def test_a_handled_message_is_logged_when_asked(shop: Shop) -> None:
    shop.dispatch("o-1", "o-2")

    quiet = shop.bus("consume", "async", "--limit", "1").stderr
    loud = shop.bus("consume", "async", "--limit", "1", "-v").stderr

    assert ("was handled" in quiet, "was handled: order.placed" in loud) == (False, True)


def test_a_log_line_has_time_level_and_message(shop: Shop) -> None:
    shop.fail("o-1\\u001b[31m")

    line = shop.bus("consume", "failed", "--stop-when-empty").stderr.splitlines()[1]

    assert r"no stock for o-1\x1b[31m" in line
    assert line[:4].isdecimal()
    assert " ERROR " in line


def test_sigterm_ends_the_worker_with_success(shop: Shop) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bus", "consume", "async"],
        cwd=shop.path,
        env=shop.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as stderr:
        assert "Worker started" in stderr.readline()
        os.kill(process.pid, signal.SIGTERM)
        rest = stderr.read()

    assert process.wait(30) == 0
    assert "Worker stopped" in rest


def test_a_handler_that_outlasts_the_grace_has_an_exit_code_of_its_own(shop: Shop) -> None:
    shop.ok("dispatch", "nap", "{}")
    process = subprocess.Popen(
        [sys.executable, "-m", "bus", "consume", "async", "--shutdown-timeout", "100ms"],
        cwd=shop.path,
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as stdout:
        assert stdout.readline() == "napping\n"
        os.kill(process.pid, signal.SIGTERM)

        assert process.wait(30) == 6


@pytest.mark.parametrize("command", [["stats"], ["dispatch", "order.placed", ORDER], ["consume", "--fail-fast"]])
def test_a_transport_that_cannot_be_reached_has_an_exit_code_of_its_own(shop: Shop, command: list[str]) -> None:
    (shop.path / "bus.db").write_bytes(b"this is no database" * 100)

    done = shop.bus(*command)

    assert done.returncode == 4
    assert "Traceback" not in done.stderr
