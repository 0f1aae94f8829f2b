from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator

import pytest

from bus.cli import logs
from bus.cli.settings import Settings

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Set up the logs as in a new process, where the application has given these handlers to the root logger."""
    root, ours = logging.getLogger(), logging.getLogger("bus")
    levels = root.level, ours.level

    def set_up(verbosity: int = 0, *handlers: logging.Handler) -> None:
        monkeypatch.setattr(root, "handlers", list(handlers))
        logs.configure(Settings(verbosity=verbosity))

    yield set_up
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def logged_error(capsys: pytest.CaptureFixture[str], name: str) -> list[str]:
    try:
        raise RuntimeError("sold out")
    except RuntimeError:
        logging.getLogger(name).exception("Message \x1b[31m failed\r\n2026-01-31 forged")
    return capsys.readouterr().err.splitlines()


def test_an_error_of_the_bus_is_one_line_with_the_place_where_it_was_raised(
    capsys: pytest.CaptureFixture[str], configure: Configure
) -> None:
    configure()

    (line,) = logged_error(capsys, "bus.settlement")

    assert r"ERROR   Message \x1b[31m failed\r\n2026-01-31 forged" in line
    assert line.endswith(" in logged_error)")
    assert __file__ in line


@pytest.mark.parametrize(("name", "verbosity"), [("bus.settlement", 2), ("shop.handlers", 0)])
def test_the_trace_is_shown_when_asked_and_for_the_application(
    capsys: pytest.CaptureFixture[str], configure: Configure, name: str, verbosity: int
) -> None:
    configure(verbosity)

    lines = logged_error(capsys, name)

    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "RuntimeError: sold out"


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (0, ["bus INFO", "shop WARNING"]),
        (1, ["bus INFO", "shop INFO", "shop WARNING"]),
        (2, ["bus DEBUG", "bus INFO", "shop DEBUG", "shop INFO", "shop WARNING"]),
    ],
)
def test_every_v_shows_more(
    capsys: pytest.CaptureFixture[str], configure: Configure, verbosity: int, shown: list[str]
) -> None:
    configure(verbosity)

    for name, levels in (("bus", ["DEBUG", "INFO"]), ("shop", ["DEBUG", "INFO", "WARNING"])):
        for level in levels:
            logging.getLogger(name).log(getattr(logging, level), "%s %s", name, level)

    lines = capsys.readouterr().err.splitlines()
    assert [" ".join(line.split()[-2:]) for line in lines] == shown


def test_a_handler_that_the_application_has_given_stays_alone(
    capsys: pytest.CaptureFixture[str], configure: Configure
) -> None:
    configure(0, logging.StreamHandler(sys.stdout))

    logging.getLogger("bus").info("Worker started")

    assert capsys.readouterr() == ("Worker started\n", "")
