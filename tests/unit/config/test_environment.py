"""The ``.env`` files and the name of the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bus.config.environment import default_connection, read_environment
from bus.errors import ConfigurationError


def read(folder: Path, real: dict[str, str] | None = None, **files: str) -> dict[str, str]:
    """Write files, whose names are given as ``_env_local`` for ``.env.local``, and return what is read."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return dict(read_environment(folder, real or {}).variables)


def test_files_are_read_in_the_order_of_symfony_and_the_last_wins(tmp_path: Path) -> None:
    files = {
        "_env": "A=1\nB=1\nC=1\nD=1",
        "_env_local": "B=2\nC=2\nD=2",
        "_env_dev": "C=3\nD=3",
        "_env_dev_local": "D=4",
    }

    assert read(tmp_path, **files, _env_prod="A=9") == {"A": "1", "B": "2", "C": "3", "D": "4"}


def test_real_variables_win_even_when_they_are_empty(tmp_path: Path) -> None:
    assert read(tmp_path, {"A": "real", "B": ""}, _env="A=1\nB=1\nC=1") == {"A": "real", "B": "", "C": "1"}


def test_the_environment_is_dev_where_nothing_says_otherwise(tmp_path: Path) -> None:
    assert read_environment(tmp_path, {}).name == "dev"
    assert read_environment(tmp_path, {"APP_ENV": "prod"}).name == "prod"


def test_a_file_may_name_the_environment(tmp_path: Path) -> None:
    assert read(tmp_path, _env="APP_ENV=prod", _env_prod="A=prod", _env_dev="A=dev")["A"] == "prod"
    assert read(tmp_path, _env_local="APP_ENV=dev")["A"] == "dev"
    assert read(tmp_path, {"APP_ENV": "prod"})["A"] == "prod"


def test_a_test_run_does_not_depend_on_the_local_file(tmp_path: Path) -> None:
    files = {"_env": "A=1\nB=1", "_env_local": "A=2", "_env_test": "B=3"}

    assert read(tmp_path, {"APP_ENV": "test"}, **files) == {"A": "1", "B": "3", "APP_ENV": "test"}


def test_a_dist_file_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    assert read(tmp_path, _env_dist="A=dist") == {"A": "dist"}
    assert read(tmp_path, _env="B=1") == {"B": "1"}


def test_the_variables_of_the_process_are_not_changed(tmp_path: Path) -> None:
    before = dict(os.environ)

    read(tmp_path, dict(before), _env="BUS_TEST_OF_ENV_FILES=1")

    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=value", "value"),
        ("export A=value", "value"),
        ("A=", ""),
        ("A= # nothing", ""),
        ("A=value # comment, it's one", "value"),
        ("A=value#part", "value#part"),
        ("A='single $B'", "single $B"),
        ('A="double $B"', "double b"),
        ('A="${B}s"', "bs"),
        ("A=$B$B", "bb"),
        ("A=${MISSING:-fallback}", "fallback"),
        ("A=$MISSING", ""),
        (r'A="\$B"', "$B"),
        (r"A=\$B", "$B"),
        (r'A="one\ntwo \"three\" \\"', 'one\ntwo "three" \\'),
        ('A="one\ntwo"', "one\ntwo"),
        ("A=\"a\"'b'c", "abc"),
        ("A=amqp://user:p%40ss@host:5672/%2f?x=1&y=2#z", "amqp://user:p%40ss@host:5672/%2f?x=1&y=2#z"),
        ("A = spaces around it ", "spaces around it"),
        ("# comment\n\n  \nA=value", "value"),
        ("A=first\r\nB=x", "first"),
        ("A=first\nA=second", "second"),
        ("A=ünïcode", "ünïcode"),
    ],
)
def test_a_line_of_a_file(line: str, value: str, tmp_path: Path) -> None:
    assert read(tmp_path, {"B": "b"}, _env=line)["A"] == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A=1\nnonsense", ":2: expected NAME=value"),
        ("=value", ":1: expected NAME=value"),
        ("1A=value", ":1: expected NAME=value"),
        ("\nA='hunter2", ':2: the value of "A" has a quote that is not closed'),
        ('A="hunter2', ':1: the value of "A" has a quote that is not closed'),
        ("A=hun'ter2", ':1: the value of "A" has a quote that is not closed'),
        ("A=$(cat hunter2)", ':1: the value of "A" runs a command, $(...), which is not done here'),
    ],
)
def test_a_line_that_cannot_be_read_is_named_without_its_value(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(tmp_path, _env=text)

    assert str(raised.value).startswith(str(tmp_path / ".env") + problem)
    assert "hunter2" not in str(raised.value)


def test_files_that_are_no_text_or_too_large_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff")
    with pytest.raises(ConfigurationError, match="the file is not UTF-8"):
        read(tmp_path)

    (tmp_path / ".env").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigurationError, match="larger than 1 MiB"):
        read(tmp_path)


def test_the_repr_of_an_environment_shows_no_values(tmp_path: Path) -> None:
    assert "hunter2" not in repr(read_environment(tmp_path, {"A": "hunter2"}))


def test_the_default_database_is_the_variable_or_an_embedded_file() -> None:
    assert default_connection({"DATABASE_URL": "postgresql://db/shop"}) == "postgresql://db/shop"
    assert default_connection({"DATABASE_URL": ""}) == default_connection({}) == "sqlite:///var/bus.db"
