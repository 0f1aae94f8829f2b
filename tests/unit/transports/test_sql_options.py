from __future__ import annotations

from pathlib import Path

import pytest

from bus.errors import ConfigurationError
from bus.transports.dsn import Dsn, options_from
from bus.transports.registry import DriverContext
from bus.transports.sql.options import SqlOptions, database_path


def path_of(dsn: str, connections: dict[str, str] | None = None, **environment: str) -> Path:
    context = DriverContext(connections=connections or {}, environment=environment)
    return database_path('Transport "async"', Dsn.parse(dsn), context)


def test_three_slashes_are_relative_and_four_are_absolute() -> None:
    assert path_of("sqlite:///var/bus.db") == Path.cwd() / "var/bus.db"
    assert path_of("sqlite:////srv/bus.db") == Path("/srv/bus.db")


def test_a_path_is_bound_to_the_working_directory_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_of("sqlite:///bus.db")
    monkeypatch.chdir("/")

    assert path.is_absolute()
    assert path != Path("/bus.db")


def test_a_path_is_percent_decoded() -> None:
    assert path_of("sqlite:////srv/a%20b%3F.db") == Path("/srv/a b?.db")


@pytest.mark.parametrize("scheme", ["sql", "doctrine"])
def test_a_connection_is_looked_up_by_name(scheme: str) -> None:
    connections = {"default": "sqlite:////srv/a.db", "audit": "sqlite:////srv/b.db?serverVersion=3"}

    assert path_of(f"{scheme}://audit?queue_name=x", connections) == Path("/srv/b.db")
    assert path_of(f"{scheme}://default", connections, DATABASE_URL="sqlite:////srv/c.db") == Path("/srv/a.db")


def test_without_a_connection_the_default_is_the_database_url() -> None:
    assert path_of("doctrine://default", DATABASE_URL="sqlite:////srv/c.db") == Path("/srv/c.db")


def test_without_anything_the_default_is_an_embedded_file() -> None:
    assert path_of("doctrine://default") == Path.cwd() / "var/bus.db"
    assert path_of("sql://") == Path.cwd() / "var/bus.db"


@pytest.mark.parametrize(
    ("connection", "what"),
    [
        ("adit", '": there is no connection "adit"; connections are: "audit", "default"; did you mean "audit"?'),
        pytest.param(
            "default",
            '", connection "default": "oracle" is no database that this version knows; it knows: "mariadb", '
            '"mysql", "postgres", "postgresql", "sqlite"',
        ),
        ("audit", '", connection "audit": its URL has unknown parameters: "mode"'),
    ],
)
def test_a_connection_that_cannot_be_used_is_refused(connection: str, what: str) -> None:
    connections = {"audit": "sqlite:////srv/b.db?mode=ro"}

    with pytest.raises(ConfigurationError) as raised:
        path_of(f"sql://{connection}", connections, DATABASE_URL="oracle://u:s3cr3t@h/db?serverVersion=16&charset=utf8")

    assert str(raised.value) == f'Transport "async{what}'


@pytest.mark.parametrize("dsn", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///%3Amemory%3A"])
def test_a_database_in_memory_is_refused(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match=r'in memory is seen by one connection only .* use "in-memory://"'):
        path_of(dsn)


def test_two_slashes_are_refused_with_the_right_number() -> None:
    with pytest.raises(ConfigurationError, match="three slashes and a path"):
        path_of("sqlite://var/bus.db")


def test_options_have_symfonys_names_and_defaults() -> None:
    assert SqlOptions() == SqlOptions(
        table_name="messenger_messages", queue_name="default", redeliver_timeout=3600, auto_setup=True
    )


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("table_name", "a; DROP TABLE b", "must be a plain name"),
        ("table_name", "", "must be a plain name"),
        ("queue_name", "", "must have 1 to 190 characters"),
        ("queue_name", "x" * 191, "must have 1 to 190 characters"),
        ("redeliver_timeout", 0, "must be at least 1 second"),
        ("auto_setup", "maybe", "must be true or false"),
        ("use_notify", True, "unknown option"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(name: str, value: object, what: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        options_from(SqlOptions, Dsn.parse("sqlite:///x"), {name: value}, "async")

    assert str(raised.value).startswith('Transport "async": ')
    assert f'option "{name}"' in str(raised.value)
    assert what in str(raised.value)


@pytest.mark.parametrize(
    ("query", "number"), [("", 0), ("ordered=true", 10), ("ordered=true&partitions=4", 4), ("partitions=3", 3)]
)
def test_ordered_brings_partitions(query: str, number: int) -> None:
    dsn = Dsn.parse(f"sqlite:///bus.db?{query}")

    assert options_from(SqlOptions, dsn, {}, "async").number_of_partitions == number


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("ordered=true&partitions=0", 'option "ordered" needs partitions'),
        ("partitions=-1", 'option "partitions" must be'),
        ("partitions=1001", 'option "partitions" must be 0 to 1000'),
        ("ordered_window=0", 'option "ordered_window" must be at least 1'),
        ("ordred=true", 'did you mean "ordered"'),
    ],
)
def test_impossible_options_of_ordering_are_refused(query: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        options_from(SqlOptions, Dsn.parse(f"sqlite:///bus.db?{query}"), {}, "async")
