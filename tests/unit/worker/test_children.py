from __future__ import annotations

import sys
from dataclasses import replace

import click
import pytest

from bus import Messenger, WorkerOptions, WorkerProcessesError
from bus.children import consume_command, must_not_be_a_child
from bus.cli import consume
from bus.cli.settings import Settings
from bus.config.schema import MessengerConfig, TransportConfig
from bus.errors import ConfigurationError
from bus.life_line import LifeLine
from bus.limits import Limits

OPTIONS = WorkerOptions(
    concurrency=3,
    fetch_size=7,
    sleep=0.25,
    queues=("high", "low"),
    fail_fast=True,
    shutdown_timeout=1.5,
    stop_when_empty=True,
)
LIMITS = Limits(messages=10, failures=2, seconds=60.0, memory=128 * 1024**2)


def parsed(command: list[str]) -> click.Context:
    assert command[command.index("-m") + 1 :][:2] == ["bus", "consume"]
    arguments = command[command.index("consume") + 1 :]
    return consume.command.make_context("consume", arguments, auto_envvar_prefix="BUS_CONSUME")


@pytest.mark.parametrize("options", [OPTIONS, WorkerOptions()], ids=["others", "defaults"])
def test_a_worker_process_gets_every_option(options):
    command = consume_command(["async"], options, bus="command.bus", limits=LIMITS)

    read = parsed(command).params
    assert consume._worker_options(read) == options
    assert consume._limits(read) == replace(LIMITS, seconds=None), "the time is the supervisor's"
    assert read["bus_name"] == "command.bus"
    assert read["receivers"] == ("async",)


def test_every_option_of_a_worker_reaches_the_processes():
    not_for_them = {"processes", "reload", "time_limit", "life_line_fd", "stop_request", "every", "excluded", "help"}
    command = consume_command(["async"], OPTIONS, bus="command.bus", limits=LIMITS)
    global_options = {"config", "app", "ansi", "verbosity"}

    context = parsed(command)
    given = {
        name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    assert set(context.params) - given - not_for_them - global_options == set()


def test_the_global_options_are_passed_on():
    settings = Settings(config="other.yaml", app="shop:make", ansi=False, verbosity=2)
    command = consume_command(["async"], OPTIONS, global_options=settings.as_arguments())

    assert parsed(command).obj == settings


def test_the_processes_run_this_python():
    assert consume_command(["async"], OPTIONS)[0] == sys.executable


def test_a_worker_process_cannot_supervise(monkeypatch):
    must_not_be_a_child()
    monkeypatch.setattr(LifeLine, "of_this_process", object())

    with pytest.raises(ConfigurationError, match='put that call under if __name__ == "__main__":'):
        must_not_be_a_child()


def messenger() -> Messenger:
    return Messenger(MessengerConfig(transports={"async": TransportConfig(dsn="in-memory://")}))


def test_consuming_in_processes_needs_an_app():
    with pytest.raises(ConfigurationError, match='say with app="module:name" where'):
        messenger().consume(["async"], processes=4)


@pytest.mark.parametrize(("receivers", "processes"), [(["asnyc"], 2), (["async"], 0)])
def test_what_is_wrong_is_said_before_any_process_starts(receivers, processes):
    with pytest.raises(ConfigurationError, match=r'no transport "asnyc"|"processes" is 0'):
        messenger().consume(receivers, processes=processes, app="no_such_module:make")


def test_what_the_processes_state_is_raised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkerProcessesError, match='there is no module "no_such_module"') as raised:
        messenger().consume(["async"], processes=1, app="no_such_module:make")

    assert raised.value.exit_code == 3
