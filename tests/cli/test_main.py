from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bus.cli import exit_codes
from bus.cli.main import COMMANDS, bus, failure_of
from bus.errors import AccessDeniedError, BusError, ConfigurationError, ConnectionLostError, TransportError
from bus.signals import EXIT_GRACE_EXCEEDED

ROOT = Path(__file__).parents[2]
HEAVY = {"asyncio", "greenlet", "rich", "sqlalchemy", "yaml"}


def commands(group: click.Group = bus, path: str = "bus") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def test_the_help_lists_every_command_and_every_exit_code() -> None:
    text = CliRunner().invoke(bus, ["--help"]).output

    assert [line.split()[0] for line in text.split("Commands:\n")[1].split("\n\n")[0].splitlines()] == list(COMMANDS)
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code}  {meaning}" in text


def test_the_help_of_the_whole_says_what_each_command_says_of_itself() -> None:
    for name, (module, summary) in COMMANDS.items():
        command = importlib.import_module(module).command
        assert command.name == name
        assert str(command.help).splitlines()[0] == summary


def test_every_command_has_a_help_and_every_option_an_environment_variable() -> None:
    runner = CliRunner()
    for path, _ in commands():
        result = runner.invoke(bus, [*path.split()[1:], "--help"], terminal_width=200)
        assert result.exit_code == 0, path
        options = result.output.split("Options:\n")[1]
        entries = [" ".join(entry.split()) for entry in options.split("Exit codes:")[0].split("\n  -")]
        for entry in entries:
            if "Show this message" not in entry:
                assert "env var: BUS_" in entry, (path, entry)


def test_a_variable_is_named_after_the_option() -> None:
    text = CliRunner().invoke(bus, ["consume", "--help"], terminal_width=200).output

    for option in ("ALL", "EXCLUDE_RECEIVERS", "TIME_LIMIT", "BUS", "QUEUES", "STOP_WHEN_EMPTY"):
        assert f"env var: BUS_CONSUME_{option}]" in text


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def test_the_help_loads_nothing_that_is_slow() -> None:
    loaded = run_python(
        "import sys\n"
        "from bus.cli.main import bus\n"
        "bus(['--help'], standalone_mode=False)\n"
        "print('\\n' + ' '.join(sys.modules))"
    ).splitlines()[-1]

    assert HEAVY & set(loaded.split()) == set()


def processor_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_help_answers_at_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    times = []
    for _ in range(5):
        before = processor_seconds_of_children()
        subprocess.run([sys.executable, "-m", "bus", "--help"], capture_output=True, env=environment, check=True)
        times.append(processor_seconds_of_children() - before)

    # 90 ms on the machine where this was written. Processor time, because a busy machine makes everybody wait; and the
    # guard is wide, because there it counts more of that as well.
    assert min(times) < 0.3


def test_a_wrong_command_is_answered_with_the_nearest_one() -> None:
    result = CliRunner().invoke(bus, ["consum"])

    assert result.exit_code == exit_codes.USAGE
    assert 'No such command "consum"; did you mean "consume"?' in result.output


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ConfigurationError("messenger.yaml:3:5 transports: unknown"), exit_codes.CONFIGURATION),
        (ConnectionLostError("no server"), exit_codes.UNREACHABLE),
        (AccessDeniedError("wrong password"), exit_codes.UNREACHABLE),
        (TransportError("gone"), exit_codes.UNREACHABLE),
        (BusError("no handler"), exit_codes.FAILED),
    ],
)
def test_an_error_is_told_as_its_text_and_an_exit_code(error: Exception, exit_code: int) -> None:
    assert failure_of(error) == (str(error), exit_code)


def test_the_exit_code_of_an_exceeded_grace_is_the_one_that_the_signals_use() -> None:
    assert exit_codes.GRACE_EXCEEDED == EXIT_GRACE_EXCEEDED


@pytest.fixture
def surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every command fail in a way that nobody foresaw."""

    def explode(path: object) -> None:
        raise RuntimeError("boom \x1b[31m")

    monkeypatch.setattr("bus.config.loader.find", explode)


@pytest.mark.usefixtures("surprise")
def test_a_surprise_is_told_without_a_trace() -> None:
    result = CliRunner().invoke(bus, ["stats"])

    assert result.exit_code == exit_codes.FAILED
    assert result.stderr == ("Unexpected RuntimeError: boom \\x1b[31m\nRun it again with -vv to see where.\n")


@pytest.mark.usefixtures("surprise")
@pytest.mark.parametrize("arguments", [["-vv", "stats"], ["stats", "-vv"]])
def test_a_surprise_shows_its_trace_when_asked(arguments: list[str]) -> None:
    result = CliRunner().invoke(bus, arguments)

    assert "Traceback (most recent call last)" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "variable", "expected"),
    [
        ([], None, None),
        ([], "variable.yaml", "variable.yaml"),
        (["--config", "typed.yaml"], "variable.yaml", "typed.yaml"),
    ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_global_option_stands_before_or_after_the_command_and_wins_over_its_variable(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str | None, expected: str | None, place: str
) -> None:
    looked_for: list[object] = []
    monkeypatch.setattr("bus.config.loader.find", looked_for.append)
    line = [*arguments, "stats"] if place == "before" else ["stats", *arguments]

    CliRunner().invoke(bus, line, env={"BUS_CONFIG": variable})

    assert looked_for == [expected]


def test_a_command_without_a_configuration_file_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUS_CONFIG", raising=False)

    result = CliRunner().invoke(bus, ["consume"])

    assert result.exit_code == exit_codes.CONFIGURATION
    for path in ("messenger.yaml", "config/messenger.yaml", "config/packages/messenger.yaml"):
        assert path in result.stderr
