"""``stats``, ``show``, ``setup-transports``, ``debug`` and ``config``."""

from __future__ import annotations

import json

import pytest

from .conftest import CONFIGURATION, Shop


def test_the_messages_of_each_transport_are_counted(shop: Shop) -> None:
    shop.dispatch("o-1", "o-2")
    shop.ok("dispatch", "order.placed", '{"order_id": "o-3"}', "--delay", "1h")

    assert shop.ok("stats").splitlines() == [
        "transport  ready  delayed  in flight  parked",
        "async          2        1          0       0",
        "failed         0        0          0       0",
    ]
    assert shop.counts()["async"] == {"ready": 2, "delayed": 1, "in_flight": 0, "parked": 0}
    assert list(json.loads(shop.ok("stats", "failed", "--format", "json"))["transports"]) == ["failed"]


def test_waiting_messages_are_seen_and_stay(shop: Shop) -> None:
    shop.dispatch("o-1")
    shop.ok("dispatch", "order.placed", '{"order_id": "o-2"}', "--delay", "1h")

    header, first, second = shop.ok("show", "async").splitlines()

    assert header.split() == ["id", "class", "state", "bytes"]
    assert (first.split()[1:3], second.split()[1:3]) == (["order.placed", "ready"], ["order.placed", "delayed"])
    assert '"order_id": "o-1"' in shop.ok("show", "async", first.split()[0])
    assert shop.counts()["async"]["ready"] == 1


def test_an_empty_transport_and_an_unknown_id_are_said(shop: Shop) -> None:
    empty, unknown = shop.bus("show", "async"), shop.bus("show", "async", "nonsense")

    assert (empty.returncode, empty.stderr) == (0, "No messages.\n")
    assert (unknown.returncode, unknown.stderr) == (1, 'There is no message "nonsense".\n')


@pytest.mark.parametrize("command", [["stats", "asnyc"], ["show", "asnyc"], ["setup-transports", "asnyc"]])
def test_an_unknown_transport_is_a_usage_error_with_the_nearest_name(shop: Shop, command: list[str]) -> None:
    done = shop.bus(*command)

    assert done.returncode == 2
    assert 'There is no transport "asnyc"' in done.stderr
    assert 'did you mean "async"?' in done.stderr


def test_transports_are_checked_set_up_and_checked_again(shop: Shop) -> None:
    before, done, after = (shop.bus("setup-transports", *more) for more in (["--check"], [], ["--check"]))

    assert (before.returncode, done.returncode, after.returncode) == (1, 0, 0)
    assert "messenger_messages" in before.stdout
    assert done.stdout.splitlines() == ["async: set up", "failed: set up", "store sql://default: set up"]
    assert after.stdout.splitlines() == ["async: complete", "failed: complete", "store sql://default: complete"]


def test_the_statements_that_set_up_everything_are_printed_once_each(shop: Shop) -> None:
    printed = shop.bus("setup-transports", "--sql").stdout
    statements = [each for each in printed.split(";\n") if each]

    assert [each.splitlines()[0] for each in statements].count("-- async") == 2
    assert "CREATE TABLE IF NOT EXISTS messenger_messages" in printed
    assert "CREATE TABLE IF NOT EXISTS messenger_store" in printed
    assert len(statements) == len(set(statements))
    shop.bus("setup-transports")
    assert shop.bus("setup-transports", "--sql").stdout == ""


def test_a_bus_is_described_with_both_stacks_and_every_message(shop: Shop) -> None:
    text = shop.ok("debug")

    assert 'Bus "messenger.bus.default" (default)' in text
    assert "send > handle" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("order.placed"))
    assert row == ["order.placed", "async", "shop.ship"]


def test_the_way_of_a_message_is_explained(shop: Shop) -> None:
    text = shop.ok("debug", "--explain", "OrderPlaced")

    assert 'routing key "order.placed"' in text
    assert "shop.ship" in text


def test_unknown_names_in_debug_are_usage_errors(shop: Shop) -> None:
    for arguments in (["other"], ["--explain", "order.plcaed"]):
        assert shop.bus("debug", *arguments).returncode == 2


def test_a_good_configuration_is_ok(shop: Shop) -> None:
    for done in (shop.bus("config", "check"), shop.installed_bus("config", "check")):
        assert (done.returncode, done.stdout, done.stderr) == (0, "messenger.yaml: ok\n", "")


def test_every_problem_of_a_configuration_is_printed_with_its_place(shop: Shop) -> None:
    shop.configure(CONFIGURATION.replace("failure_transport: failed", "failure_transport: faild\n  nonsense: 1"))

    done = shop.bus("config", "check")

    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 2
    assert all(line.startswith("messenger.yaml:") for line in done.stderr.splitlines())


def test_notes_are_problems_when_checked_strictly(shop: Shop) -> None:
    shop.configure(f"{CONFIGURATION}    'App\\Foreign': async\n")

    assert shop.bus("config", "check").returncode == 0
    strict = shop.bus("config", "check", "--strict")
    assert (strict.returncode, "App\\Foreign" in strict.stderr) == (3, True)


def test_the_schema_is_json(shop: Shop) -> None:
    schema = json.loads(shop.ok("config", "schema"))

    assert "draft-07" in schema["$schema"]


def test_the_reference_is_markdown(shop: Shop) -> None:
    assert "| `max_deliveries` | whole number, 1 or more | `3` |" in shop.ok("config", "reference")


def test_a_password_is_never_printed(shop: Shop) -> None:
    for dsn in ("kafka://shop:hunter2@localhost/orders", "sqlite://shop:hunter2@host/x", "nonsense://u:hunter2@h"):
        shop.configure(CONFIGURATION.replace("sql://default?queue_name=async", dsn))
        for arguments in (["stats", "-vv"], ["config", "check"], ["consume", "async"]):
            done = shop.bus(*arguments)
            assert done.returncode == 3
            assert "hunter2" not in done.stdout + done.stderr


def test_a_module_of_the_users_own_that_hides_the_package_is_mentioned(shop: Shop) -> None:
    (shop.path / "bus.py").write_text("")

    done = shop.installed_bus("stats")

    assert done.returncode == 0, done.stderr
    assert f'The file "{shop.path / "bus.py"}" has the name of the package "bus"' in done.stderr
