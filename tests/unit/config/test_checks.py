"""Names that must exist, circles, and rules between keys; for YAML and for configurations made in Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bus.config.checks import check, routing_notes
from bus.config.loader import Loaded
from bus.config.schema import BusConfig, MessengerConfig, TransportConfig

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]


def chained(**targets: str | None) -> MessengerConfig:
    """Return transports by name, each with the failure transport that is given for it."""
    transports = {
        name: TransportConfig(dsn=f"doctrine://default?queue_name={name}", failure_transport=target)
        for name, target in targets.items()
    }
    return MessengerConfig(transports=transports)


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ({"a": "a"}, ("transports.a.failure_transport", '"a" -> "a"')),
        ({"a": "b", "b": "a"}, ("transports.a.failure_transport", '"a" -> "b" -> "a"')),
        ({"a": "b", "b": "c", "c": "a"}, ("transports.a.failure_transport", '"a" -> "b" -> "c" -> "a"')),
        ({"x": "a", "a": "b", "b": "a"}, ("transports.a.failure_transport", '"a" -> "b" -> "a"')),
    ],
)
def test_a_circle_of_failure_transports_is_an_error(targets: dict[str, str], problem: tuple[str, str]) -> None:
    path, shape = problem

    assert list(check(chained(**targets))) == [(path, f"failure transports form a circle: {shape}")]


def test_the_general_failure_transport_closes_circles_too(problems: Problems) -> None:
    (line,) = problems(
        """\
        messenger:
          failure_transport: failed
          transports:
            async: 'doctrine://default'
            failed: {dsn: 'doctrine://default?queue_name=failed', failure_transport: async}
        """
    )

    assert line.startswith("messenger.yaml:5:59 transports.failed.failure_transport: ")
    assert line.endswith('failure transports form a circle: "async" -> "failed" -> "async"')


def test_the_general_failure_transport_keeps_its_own_failures() -> None:
    config = MessengerConfig(
        failure_transport="failed",
        transports={"async": TransportConfig(dsn="doctrine://default"), "failed": TransportConfig(dsn="doctrine://x")},
    )

    assert list(check(config)) == []
    assert config.failure_transport_of("async") == "failed"
    assert config.failure_transport_of("failed") is None


def test_a_chain_of_failure_transports_is_no_circle() -> None:
    assert list(check(chained(a="b", b="c", c=None))) == []


def test_a_failure_transport_that_does_not_exist_is_an_error(problems: Problems) -> None:
    general, own = problems(
        """\
        messenger:
          failure_transport: filed
          transports:
            a: {dsn: 'doctrine://default', failure_transport: zebra}
            failed: 'doctrine://default?queue_name=failed'
        """
    )

    assert general == 'messenger.yaml:2:3 failure_transport: there is no transport "filed"; did you mean "failed"?'
    assert own.startswith("messenger.yaml:4:36 transports.a.failure_transport: ")
    assert own.endswith('there is no transport "zebra"; transports are "a", "failed"')


def test_a_failure_transport_that_keeps_nothing_is_an_error() -> None:
    config = MessengerConfig(
        failure_transport="now",
        transports={"a": TransportConfig(dsn="doctrine://default"), "now": TransportConfig(dsn="sync://")},
    )

    assert list(check(config)) == [("failure_transport", '"now" is a sync:// transport, which keeps no messages')]


def test_a_transport_and_its_failure_transport_are_not_the_same_queue(problems: Problems, load: Load) -> None:
    text = "messenger: {failure_transport: b, transports: {a: 'DSN', b: 'DSN'}}"

    (line,) = problems(text.replace("DSN", "doctrine://default"))
    assert line.endswith('transports.a: it is the same queue as its failure transport "b"')
    load(text.replace("DSN", "in-memory://"))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (MessengerConfig(imports="shop"), ("imports", 'expected a tuple of modules, such as ("shop",)')),  # type: ignore[arg-type]
        (
            MessengerConfig(transports={"a": TransportConfig(dsn="in-memory://")}, routing={"*": "a"}),  # type: ignore[dict-item]
            ("routing.*", 'expected a tuple of transports, such as ("a",)'),
        ),
        (
            MessengerConfig(transports={"a": TransportConfig(dsn="in-memory://", max_deliveries=0)}),
            ("transports.a.max_deliveries", "expected a whole number from 1"),
        ),
    ],
)
def test_what_only_python_can_say_wrongly_is_one_problem(config: MessengerConfig, problem: tuple[str, str]) -> None:
    assert list(check(config)) == [problem]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("sqlite:///a.db", "doctrine://files", True),
        ("sqlite:///a.db", "sqlite:///./a.db?queue_name=default", True),
        ("sql://files?table_name=messenger_messages", "doctrine://files?redeliver_timeout=60", True),
        ("sqlite:///a.db", "doctrine://files?queue_name=failed", False),
        ("sqlite:///a.db", "sqlite:///b.db", False),
        ("sql://files", "sql://default", False),
    ],
)
def test_a_failure_transport_is_another_queue_however_it_is_written(one: str, other: str, is_same: bool) -> None:
    config = MessengerConfig(
        failure_transport="failed",
        transports={"async": TransportConfig(dsn=one), "failed": TransportConfig(dsn=other)},
        connections={"files": "sqlite:///a.db"},
    )

    assert bool(list(check(config))) is is_same


def test_a_transport_that_is_wrong_still_exists(problems: Problems) -> None:
    (line,) = problems("messenger: {failure_transport: a, transports: {a: []}, routing: {shop.A: a}}")
    assert "transports.a.dsn: a transport needs a DSN" in line

    (line,) = problems("messenger: {failure_transport: a, transports: {a: [b]}, routing: {shop.A: a}}")
    assert "transports.a: expected a text or a map, but it is a list" in line


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("shop.*.A", 'a "*" stands alone or at the end of a namespace, as in "shop.events.*"'),
        ("shop*", 'a "*" stands alone or at the end of a namespace, as in "shop.events.*"'),
        (".*", 'a "*" stands alone or at the end of a namespace, as in "shop.events.*"'),
        ("**", 'a "*" stands alone or at the end of a namespace, as in "shop.events.*"'),
        ("\\App\\Message", "leave out the backslash at the beginning"),
    ],
)
def test_a_routing_key_has_a_form(key: str, problem: str) -> None:
    config = MessengerConfig(transports={"a": TransportConfig(dsn="sync://")}, routing={key: ("a",)})

    assert [what for _, what in check(config)] == [problem]


@pytest.mark.parametrize("key", ["*", "App\\*", "App\\Message\\*", "shop.*", "shop.events.*", "order.placed", "Local"])
def test_these_are_routing_keys(key: str) -> None:
    config = MessengerConfig(transports={"a": TransportConfig(dsn="sync://")}, routing={key: ("a",)})

    assert list(check(config)) == []


def test_a_message_is_routed_to_transports_that_exist() -> None:
    config = MessengerConfig(routing={"shop.A": ("asnyc",), "shop.B": ()})

    assert list(check(config)) == [
        ("routing.shop.A.senders.0", 'there is no transport "asnyc"; transports are none'),
        ("routing.shop.B", "it names no transport"),
    ]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            MessengerConfig(buses={"a": BusConfig(), "b": BusConfig()}),
            'with more than one bus it must be named here (buses are "a", "b")',
        ),
        (
            MessengerConfig(buses={"command.bus": BusConfig()}, default_bus="comand.bus"),
            'there is no bus "comand.bus"; did you mean "command.bus"?',
        ),
        (MessengerConfig(default_bus="x"), 'there is no bus "x"; buses are "messenger.bus.default"'),
    ],
)
def test_the_default_bus_is_named_and_exists(config: MessengerConfig, problem: str) -> None:
    assert list(check(config)) == [("default_bus", problem)]


def test_one_bus_is_the_default_bus() -> None:
    assert list(check(MessengerConfig(buses={"a": BusConfig()}))) == []


def test_a_routing_key_that_no_message_has_is_noted_where_it_may_be_another_applications(load: Load) -> None:
    config = load(
        """\
        messenger:
          transports: {a: 'sync://'}
          routing:
            App\\Known: a
            App\\Foreign: a
            App\\Sub\\*: a
            Other\\*: a
            shop.events.*: a
            shp.events.*: a
            shop.events.Placed: a
            '*': a
        """
    ).config

    assert routing_notes(config, ["App\\Known", "App\\Sub\\Known", "shop.events.Placed"]) == (
        "messenger.yaml:5:5 routing.App\\Foreign: no message here has this name",
        "messenger.yaml:7:5 routing.Other\\*: no message here has this name",
        "messenger.yaml:9:5 routing.shp.events.*: no message here has this name",
    )


def test_what_a_variable_gives_is_not_shown_as_an_unknown_name(problems: Problems) -> None:
    lines = problems(
        """\
        messenger:
          imports: '${X}'
          default_bus: '${X}'
          failure_transport: '%env(X)%'
          serializer: '%env(PHP)%'
          transports: {a: {dsn: '${X}', failure_transport: 'x${X}'}}
          routing: {shop.A: ['%env(X)%'], shop.B: '%env(csv:X)%'}
        """,
        X="hunter2!",
        PHP="hunter2\\X",
    )

    assert not any("hunter2" in line for line in lines)
    assert len(lines) == 8
    assert sum('the value of "X"' in line for line in lines) == 6
    assert all(line.startswith(f"messenger.yaml:{number}:") for line, number in zip(lines, "23456677", strict=True))
