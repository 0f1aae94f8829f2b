from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from .conftest import Shop


def test_one_message_is_dispatched_and_told_where_it_went(shop: Shop) -> None:
    printed = shop.ok("dispatch", "order.placed", '{"order_id": "o-1"}')

    assert re.fullmatch(r"[0-9a-f-]{36} sent to async\n", printed)
    assert shop.counts()["async"]["ready"] == 1


def test_a_message_without_a_transport_is_handled_here(shop: Shop) -> None:
    printed = shop.ok("dispatch", "ping", "{}")

    assert printed.endswith("handled here\n")
    assert (shop.path / "pong.txt").exists()


def test_lines_are_dispatched_and_bad_ones_reported_by_number(shop: Shop) -> None:
    lines = '{"order_id": "o-1"}\n{"order_id": \n{"order_id": "o-3"}\n{"total": 1}\n'

    done = shop.bus("dispatch", "order.placed", stdin=lines)

    assert done.returncode == 1
    assert done.stdout == "2 dispatched, 2 refused\n"
    refused = [line.split(":")[0] for line in done.stderr.splitlines() if line.startswith("line")]
    assert refused == ["line 2", "line 4"]
    assert shop.counts()["async"]["ready"] == 2


def test_with_a_dash_in_place_of_the_type_each_line_names_its_own(shop: Shop) -> None:
    lines = (
        '{"type": "order.placed", "body": {"order_id": "o-1"}}\n'
        '{"type": "order.unknown", "body": {}}\n'
        '{"type": "order.cancelled", "body": {"order_id": "o-2"}}\n'
    )

    done = shop.bus("dispatch", "-", stdin=lines)

    assert (done.returncode, done.stdout) == (1, "2 dispatched, 1 refused\n")
    assert "line 2: " in done.stderr
    assert "order.unknown" in done.stderr
    assert sorted(each["type"] for each in shop.json("show", "async")) == ["order.cancelled", "order.placed"]


def test_a_thousand_lines_come_in_their_order(shop: Shop) -> None:
    shop.dispatch(*(f"o-{number}" for number in range(1000)))

    shop.ok("consume", "async", "--stop-when-empty")

    assert shop.shipped() == [f"o-{number}" for number in range(1000)]


def test_an_empty_stdin_dispatches_nothing(shop: Shop) -> None:
    assert shop.ok("dispatch", "order.placed", "-") == "0 dispatched, 0 refused\n"


def test_a_forgotten_message_is_an_error_where_nobody_types_one(shop: Shop) -> None:
    done = shop.bus("dispatch", "order.placed")

    assert done.returncode == 2
    assert "nothing was dispatched" in done.stderr


def test_a_message_is_dispatched_without_any_stdin(shop: Shop) -> None:
    command = f"""exec {shlex.quote(sys.executable)} -m bus dispatch order.placed '{{"order_id": "o-1"}}' <&-"""
    subprocess.run(["sh", "-c", command], cwd=shop.path, env=shop.environment(), check=True)

    assert shop.counts()["async"]["ready"] == 1


def test_a_delayed_message_waits(shop: Shop) -> None:
    shop.ok("dispatch", "order.placed", '{"order_id": "o-1"}', "--delay", "1h")

    assert (shop.counts()["async"]["ready"], shop.counts()["async"]["delayed"]) == (0, 1)


def test_a_delay_without_a_transport_is_said_to_have_no_effect(shop: Shop) -> None:
    done = shop.bus("dispatch", "ping", "{}", "--delay", "1h")

    assert done.returncode == 0
    assert "without the delay" in done.stderr


def test_a_transport_can_be_named(shop: Shop) -> None:
    shop.ok("dispatch", "ping", "{}", "--transport", "async", "--key", "k-1")

    (waiting,) = shop.json("show", "async")
    assert waiting["type"] == "ping"
    assert waiting["headers"]["X-Bus-Partition-Key"] == "k-1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["order.placed", "{}", "--transport", "asnyc"], 'did you mean "async"?'),
        (["order.placed", "{}", "--bus", "other"], 'There is no bus "other"'),
        (["order.placed", "{}", "--delay", "5"], "the number 5 has no unit"),
        (["-", "{}"], "read from standard input"),
        ([], "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(shop: Shop, arguments: list[str], text: str) -> None:
    done = shop.bus("dispatch", *arguments)

    assert done.returncode == 2
    assert text in done.stderr


@pytest.mark.parametrize(("type_name", "body"), [("order.unknown", "{}"), ("order.placed", '{"order_id"')])
def test_a_message_that_cannot_be_made_is_a_failure(shop: Shop, type_name: str, body: str) -> None:
    done = shop.bus("dispatch", type_name, body)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_progress_bar_is_drawn_on_a_terminal_only(shop: Shop) -> None:
    exit_code, shown = shop.on_a_terminal("dispatch", "order.placed", "-", typed='{"order_id": "o-1"}\n\x04')

    assert exit_code == 0
    assert "Dispatching" in shown
    assert "1 dispatched, 0 refused" in shown
    assert "Dispatching" not in shop.bus("dispatch", "order.placed", stdin='{"order_id": "o-2"}').stderr


def test_a_refused_line_is_told_above_the_progress_bar_and_not_in_it(shop: Shop) -> None:
    _, shown = shop.on_a_terminal("dispatch", "order.placed", "-", typed="torn\n\x04")

    erased_line = "\x1b[2K"
    assert f"{erased_line}line 1: " in shown


def test_a_transport_that_ends_with_its_process_is_told(shop: Shop) -> None:
    kept = shop.bus("dispatch", "order.placed", '{"order_id": "o-1"}')
    configuration = shop.path / "messenger.yaml"
    configuration.write_text(configuration.read_text().replace("sql://default?queue_name=async", "in-memory://"))

    dispatched = shop.bus("dispatch", "order.placed", '{"order_id": "o-1"}')
    consumed = shop.bus("consume", "async", "--stop-when-empty")

    assert "is gone now" not in kept.stderr
    assert 'What was sent to "async" is gone now' in dispatched.stderr
    assert 'Transport "async" is in-memory://' in consumed.stderr
