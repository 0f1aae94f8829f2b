from __future__ import annotations

import json
import re
import sqlite3

import pytest

from .conftest import CONFIGURATION, Shop


def test_failed_messages_are_listed_with_id_class_time_and_error(shop: Shop) -> None:
    (message_id,) = shop.fail("o-1")

    header, row = shop.ok("failed", "show").splitlines()

    assert header.split("  ")[0] == "id"
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    error = r"bus\.errors\.UnrecoverableError: no stock for o-1"
    assert re.fullmatch(rf"{message_id}  order\.placed  {time}  {error}", row)


def test_nothing_failed_is_said_on_stderr(shop: Shop) -> None:
    done = shop.bus("failed", "show")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No failed messages.\n")


def test_at_most_so_many_are_listed_and_the_rest_is_mentioned(shop: Shop) -> None:
    shop.fail("o-1", "o-2", "o-3")

    done = shop.bus("failed", "show", "--max", "2")

    assert len(done.stdout.splitlines()) == 3
    assert "There are more than 2" in done.stderr


def test_one_message_is_shown_in_full_and_its_trace_when_asked(shop: Shop) -> None:
    (message_id,) = shop.fail("o-1")

    shown, traced = shop.ok("failed", "show", message_id), shop.ok("failed", "show", message_id, "-vv")

    assert '"order_id": "o-1"' in shown
    assert ("Traceback" in shown, "Traceback" in traced, "in ship" in traced) == (False, True, True)


def test_json_holds_everything_about_a_message(shop: Shop) -> None:
    (message_id,) = shop.fail("o-1")

    (message,) = json.loads(shop.ok("failed", "show", message_id, "--format", "json"))

    assert (message["type"], message["body"], message["came_from"]) == ("order.placed", {"order_id": "o-1"}, "async")
    assert message["errors"][0]["message"] == "no stock for o-1"
    assert "in ship" in message["errors"][0]["trace"]


def test_messages_are_counted_and_filtered_by_class(shop: Shop) -> None:
    shop.dispatch("o-9", type_name="order.cancelled")
    shop.fail("o-1", "o-2")

    assert shop.ok("failed", "show", "--stats").splitlines() == [
        "class            failed",
        "order.placed          2",
        "order.cancelled       1",
    ]
    assert [each["type"] for each in shop.json("failed", "show", "--class-filter", "shop.OrderCancelled")] == [
        "order.cancelled"
    ]


def test_an_unknown_id_is_a_failure(shop: Shop) -> None:
    shop.fail("o-1")

    for command in ("show", "retry", "remove"):
        done = shop.bus("failed", command, "nonsense")
        assert (done.returncode, 'There is no failed message "nonsense".' in done.stderr) == (1, True)


def test_a_retried_message_is_handled_by_the_next_worker(shop: Shop) -> None:
    first, second = shop.fail("o-1", "o-2")
    shop.repair()

    assert shop.ok("failed", "retry", second) == "1 sent back\n"
    shop.ok("consume", "async", "--stop-when-empty")

    assert shop.shipped() == ["o-2"]
    assert [each["id"] for each in shop.json("failed", "show")] == [first]


def test_all_messages_of_a_class_are_retried(shop: Shop) -> None:
    shop.dispatch("o-9", type_name="order.cancelled")
    shop.fail("o-1", "o-2")

    assert shop.ok("failed", "retry", "--class-filter", "order.placed") == "2 sent back\n"

    counts = shop.counts()
    assert (counts["async"]["ready"], counts["failed"]["ready"]) == (2, 1)


def test_here_handles_messages_in_this_process_and_parks_what_fails_again(shop: Shop) -> None:
    shop.dispatch("o-9", type_name="order.cancelled")
    shop.fail("o-1")
    shop.repair()

    done = shop.bus("failed", "retry", "--all", "--here")

    assert done.returncode == 1
    assert sorted(done.stdout.strip().split(", ")) == ["1 handled", "1 kept"]
    assert shop.shipped() == ["o-1"]
    assert shop.counts()["failed"]["parked"] == 1


def test_removed_messages_are_gone(shop: Shop) -> None:
    first, second = shop.fail("o-1", "o-2")

    done = shop.bus("failed", "remove", first, "--show-messages")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 removed")
    assert '"order_id": "o-1"' in done.stdout
    assert [each["id"] for each in shop.json("failed", "show")] == [second]


@pytest.mark.parametrize("command", ["retry", "remove"])
def test_a_person_is_asked_first_and_may_say_no(shop: Shop, command: str) -> None:
    shop.fail("o-1", "o-2")

    exit_code, shown = shop.on_a_terminal("failed", command, "--all", typed="n\n")

    assert exit_code == 0
    assert f"{command.capitalize()} 2 messages?" in shown
    assert shop.counts()["failed"]["ready"] == 2


def test_not_all_messages_are_removed_where_nobody_can_be_asked(shop: Shop) -> None:
    shop.fail("o-1")

    done = shop.bus("failed", "remove", "--all")

    assert done.returncode == 2
    assert "--force" in done.stderr
    assert shop.counts()["failed"]["ready"] == 1


def test_a_person_who_forces_is_not_asked(shop: Shop) -> None:
    shop.fail("o-1")

    exit_code, shown = shop.on_a_terminal("failed", "remove", "--all", "--force")

    assert exit_code == 0
    assert "Remove" not in shown.replace("Removing", "")
    assert shop.counts()["failed"]["ready"] == 0


@pytest.mark.parametrize("command", ["retry", "remove"])
def test_nothing_is_chosen_by_saying_nothing(shop: Shop, command: str) -> None:
    done = shop.bus("failed", command)

    assert done.returncode == 2
    assert "Give the ids of messages, --class-filter or --all." in done.stderr


@pytest.mark.fault
def test_a_retry_that_is_killed_after_sending_loses_nothing(shop: Shop) -> None:
    shop.fail("o-1", "o-2")
    shop.repair()

    done = shop.bus("failed", "retry", "--all", variables={"BUS_FAILPOINTS": "failed_retry_sent=kill9"})
    shop.ok("consume", "async", "--stop-when-empty")

    assert done.returncode == -9
    assert shop.shipped() == ["o-1", "o-2"]
    # What was killed in between is retried once more: twice, and not lost.
    assert shop.ok("failed", "retry", "--all") == "2 sent back\n"
    shop.ok("consume", "async", "--stop-when-empty")
    assert sorted(shop.shipped()) == ["o-1", "o-1", "o-2", "o-2"]


def test_hostile_messages_are_listed_shown_retried_and_removed(shop: Shop) -> None:
    shop.fail("o-1")
    rows = [
        ("\x1b[2J\x1b]0;owned\x07", json.dumps({"type": "\x1b[31mevil\r\nforged"})),
        ("[" * 100_000, json.dumps({"type": "order.placed"})),
        ('{"order_id": "\\ud800"}', json.dumps({"type": "order.placed"})),
        ('{"a":' * 400 + "1" + "}" * 400, json.dumps({"type": "os.system"})),
        ("", json.dumps([])),
        ("x", "no json"),
        ("9" * 5000, json.dumps({"type": ["list"], "X-Bus-Message-Id": 7})),
    ]
    with sqlite3.connect(shop.path / "bus.db") as database:
        for body, headers in rows:
            database.execute(
                "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) "
                "SELECT ?, ?, queue_name, created_at, available_at FROM messenger_messages "
                "WHERE queue_name = 'failed' LIMIT 1",
                (body, headers),
            )
    database.close()

    listed = shop.ok("failed", "show")
    messages = shop.json("failed", "show")
    retried = shop.bus("failed", "retry", "--all")
    removed = shop.bus("failed", "remove", "--all", "--force", "--show-messages", "-vv")

    assert len(messages) == len(rows) + 1
    assert "\x1b" not in listed
    assert "Traceback" not in retried.stderr
    assert "\x1b" not in retried.stderr + removed.stdout + removed.stderr
    assert (removed.returncode, removed.stdout.splitlines()[-1].endswith(" removed")) == (0, True)
    assert shop.json("failed", "show") == []


def test_a_configuration_without_a_failure_transport_says_so(shop: Shop) -> None:
    shop.configure(CONFIGURATION.replace("  failure_transport: failed\n", ""))

    done = shop.bus("failed", "show")

    assert done.returncode == 3
    assert "There is no failure transport" in done.stderr


def test_a_wrong_failure_transport_is_a_usage_error(shop: Shop) -> None:
    done = shop.bus("failed", "show", "--transport", "async")

    assert done.returncode == 2
    assert 'There is no failure transport "async"; valid ones are "failed"' in done.stderr
