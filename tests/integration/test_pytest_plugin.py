"""The fixtures of the pytest plug-in, in test runs of a project of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

SHOP = """
    from dataclasses import dataclass
    import bus

    @dataclass(frozen=True)
    class OrderPlaced:
        order_id: str

    @dataclass(frozen=True)
    class ReceiptSent:
        order_id: str

    class Mailer:
        def send(self, order_id: str) -> None:
            raise RuntimeError("this would send a mail")

    def place(order_id: str) -> None:
        bus.dispatch(OrderPlaced(order_id))

    @bus.handler
    def send_receipt(event: OrderPlaced, mailer: Mailer) -> None:
        mailer.send(event.order_id)
        bus.dispatch(ReceiptSent(event.order_id))

    @bus.handler
    def archive(event: ReceiptSent) -> None: ...
"""
SHOP_WITHOUT_CONTAINER = SHOP.replace(", mailer: Mailer", "").replace("mailer.send", "Mailer().send")
CONFIG = """
    messenger:
      imports: [shop]
      transports:
        async: 'sqlite:///var/bus.db'
      routing: {shop.OrderPlaced: async}
    when@test:
      messenger:
        transports: {mail: 'sqlite:///var/mail.db'}
        routing: {shop.ReceiptSent: mail}
    when@ci:
      messenger: {transports: {only_in_ci: 'sync://'}}
"""
CONFTEST = """
    import pytest

    class Doubles:
        def __init__(self):
            self.mails = []

        def send(self, order_id):
            self.mails.append(order_id)

        def get(self, kind):
            return self

    @pytest.fixture
    def messenger_container():
        return Doubles()
"""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs pytest on test files in a project with the shop, and returns what it printed."""

    def run(
        tests: str, *arguments: str, ini: str = "", folder: str = ".", passed: int | None = None, **files: str
    ) -> str:
        files = {
            "shop.py": SHOP,
            "config/messenger.yaml": CONFIG,
            "tests/conftest.py": CONFTEST,
            "tests/test_shop.py": tests,
            "pytest.ini": f"[pytest]\nfilterwarnings = error\n{ini}",
            **files,
        }
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        ours = ("BUS_", "APP_ENV", "DATABASE_URL", "PYTEST_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        # By its module: whether its entry point is installed here depends on when this checkout was installed.
        plugin = () if "-p" in arguments else ("-p", "bus.testing.pytest_plugin")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugin, *arguments],
            cwd=tmp_path / folder,
            env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        printed = done.stdout + done.stderr
        if passed is not None:
            assert re.search(rf"^=+ {passed} passed in ", printed, re.MULTILINE), printed
        return printed

    return run


def test_a_test_gets_the_projects_messenger_in_memory(run: Run, tmp_path: Path) -> None:
    tests = """
        import bus, shop

        def test_the_program_dispatches_on_it(messenger):
            shop.place("o-1")

            messenger.sent("async").assert_exactly(shop.OrderPlaced("o-1"))

        def test_the_handlers_run_with_doubles(messenger, messenger_container, dispatched):
            shop.place("o-2")
            messenger.consume_all("async")

            assert messenger_container.mails == ["o-2"]
            dispatched.assert_exactly(shop.OrderPlaced("o-2"), shop.ReceiptSent("o-2"))
            messenger.waiting("mail").assert_exactly(shop.ReceiptSent("o-2"))

        def test_the_clock_is_that_of_the_messenger(messenger, messenger_clock):
            bus.dispatch(shop.ReceiptSent("o-3"), [bus.DelayStamp(60_000)])
            assert messenger.consume_all() == []

            messenger_clock.advance(60)

            assert [each.outcome for each in messenger.consume_all()] == ["handled"]

        def test_nothing_is_left_of_the_tests_before(messenger, dispatched):
            dispatched.assert_empty()
            messenger.sent().assert_empty()
    """

    run(tests, passed=4)

    assert not (tmp_path / "var").exists()


def test_the_messenger_of_the_program_is_back_after_the_test(run: Run, tmp_path: Path) -> None:
    tests = """
        import bus, shop

        def test_with(messenger):
            bus.dispatch(shop.OrderPlaced("o-1"))

        def test_without():
            bus.dispatch(shop.OrderPlaced("o-2"))

        def test_again_with(messenger):
            messenger.sent().assert_empty()
    """

    run(tests, passed=3, **{"shop.py": SHOP_WITHOUT_CONTAINER})

    assert (tmp_path / "var" / "bus.db").exists()


def test_a_failing_assertion_shows_what_was_dispatched(run: Run) -> None:
    tests = """
        import shop

        def test_it(dispatched):
            shop.place("o-1")
            dispatched.assert_contains(shop.ReceiptSent)
    """

    printed = run(tests)

    assert "AssertionError: ReceiptSent should have been dispatched at least once, not never" in printed
    assert "1. OrderPlaced(order_id='o-1')" in printed
    assert "bus/testing/envelopes.py" not in printed


def test_a_failing_handler_shows_where_it_failed(run: Run) -> None:
    tests = """
        import shop

        def test_it(messenger):
            shop.place("o-1")
            messenger.consume_all()
    """

    printed = run(tests, **{"shop.py": SHOP_WITHOUT_CONTAINER})

    assert 'raise RuntimeError("this would send a mail")' in printed
    assert "1 failed" in printed


def test_the_environment_and_the_file_can_be_chosen(run: Run) -> None:
    tests = """
        def test_it(messenger, messenger_config):
            assert set(messenger_config.transports) == {"async", "only_in_ci"}
            assert messenger_config.source == "settings/bus.yaml"
    """

    run(tests, ini="bus_env = ci\nbus_config = settings/bus.yaml\n", **{"settings/bus.yaml": CONFIG}, passed=1)


def test_transports_may_be_those_of_the_configuration(run: Run, tmp_path: Path) -> None:
    tests = """
        import shop

        def test_it(messenger):
            shop.place("o-1")
            messenger.waiting("async").assert_exactly(shop.OrderPlaced)
    """

    run(tests, ini="bus_keep_transports = true\n", passed=1)

    assert (tmp_path / "var" / "bus.db").exists()


def test_the_configuration_may_be_made_in_python(run: Run) -> None:
    tests = """
        import bus, pytest, shop

        @pytest.fixture(scope="session")
        def messenger_config():
            return bus.MessengerConfig(imports=("shop",), transports={"q": bus.TransportConfig(dsn="sqlite:///q.db")},
                                       routing={"*": ("q",)})

        def test_it(messenger):
            shop.place("o-1")
            messenger.sent("q").assert_exactly(shop.OrderPlaced)
    """

    run(tests, passed=1)


def test_the_project_is_found_from_a_folder_below(run: Run) -> None:
    tests = """
        def test_it(messenger, dispatched):
            import shop
            shop.place("o-1")
            assert set(messenger.transports) == {"async", "mail"}
            dispatched.assert_exactly(shop.OrderPlaced)
    """

    run(tests, folder="tests", passed=1)


def test_unused_it_imports_nothing_and_does_nothing(run: Run, tmp_path: Path) -> None:
    tests = """
        import sys

        def test_it(request):
            for name in ("bus.messenger", "bus.config", "sqlalchemy", "yaml", "greenlet"):
                assert name not in sys.modules
            assert "messenger" not in request.fixturenames
    """

    run(tests, passed=1, **{"config/messenger.yaml": "this: is: no: yaml"})


def test_a_configuration_that_is_wrong_fails_the_tests_that_need_it(run: Run) -> None:
    tests = """
        def test_without(): ...

        def test_with(messenger): ...
    """

    printed = run(tests, **{"config/messenger.yaml": "messenger: {transprots: {}}"})

    assert "1 passed, 1 error" in printed
    assert 'config/messenger.yaml:1:13: unknown key "transprots"; did you mean "transports"?' in printed
    assert "bus/config/loader.py" not in printed


def test_its_options_are_explained_in_the_help(run: Run) -> None:
    printed = run("", "--help")

    assert {"bus_config", "bus_env", "bus_keep_transports"} <= set(re.findall(r"\bbus_\w+", printed))


def test_a_project_without_a_configuration_gets_a_messenger_that_handles_here(run: Run, tmp_path: Path) -> None:
    tests = """
        import bus

        def test_it(messenger):
            assert messenger.transports == {}
            assert messenger.consume_all() == []
    """
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "test_it.py").write_text(textwrap.dedent(tests))

    run("", "--rootdir=.", "-c", os.devnull, "test_it.py", folder="empty", passed=1)
