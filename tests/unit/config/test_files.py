"""Which file is loaded, and what surrounds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.config.files import project_of
from bus.config.loader import find, load, load_with_notes, searched_paths
from bus.config.schema import MessengerConfig
from bus.errors import ConfigurationError

SMALL = "messenger: {store: 'sql://%s'}"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUS_CONFIG", raising=False)


def write(path: str, text: str = SMALL % "x") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_three_places_are_looked_at_in_order() -> None:
    assert [str(path) for path in searched_paths()] == [
        "messenger.yaml",
        "config/messenger.yaml",
        "config/packages/messenger.yaml",
    ]
    assert find(environment={}) is None
    for path in reversed(searched_paths()):
        write(str(path), SMALL % path.parent.name)
        assert find(environment={}) == path


def test_a_variable_names_the_file_and_an_argument_wins_over_it() -> None:
    write("messenger.yaml")
    by_variable, by_argument = write("a.yaml"), write("b.yaml")

    assert find(environment={"BUS_CONFIG": "a.yaml"}) == by_variable
    assert find("b.yaml", environment={"BUS_CONFIG": "a.yaml"}) == by_argument
    assert find(environment={"BUS_CONFIG": ""}) == Path("messenger.yaml")


def test_a_file_that_was_named_and_is_missing_is_an_error() -> None:
    write("messenger.yaml")

    with pytest.raises(ConfigurationError, match=r'there is no configuration file "no.yaml"$'):
        load("no.yaml", environment={})
    with pytest.raises(ConfigurationError, match=r'there is no configuration file "no.yaml" \(\$BUS_CONFIG\)'):
        load(environment={"BUS_CONFIG": "no.yaml"})


def test_without_a_file_there_is_a_configuration_that_routes_nothing() -> None:
    assert load(environment={}) == MessengerConfig(connections={"default": "sqlite:///var/bus.db"})
    assert load(environment={}).source is None
    assert load(environment={"DATABASE_URL": "postgresql://db/shop"}).connections == {"default": "postgresql://db/shop"}


def test_positions_begin_with_the_name_of_the_file_as_it_is_seen_from_here(tmp_path: Path) -> None:
    file = write("config/messenger.yaml", "messenger: {stor: x}")

    for path in (None, "config/messenger.yaml", file.resolve()):
        with pytest.raises(ConfigurationError, match=r"^config/messenger.yaml:1:13: unknown key"):
            load(path, environment={})


def test_the_variables_of_the_process_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    write("messenger.yaml", "messenger: {store: '%env(BUS_TEST_STORE)%'}")
    monkeypatch.setenv("BUS_TEST_STORE", "sql://real")

    assert load().store == "sql://real"


@pytest.mark.parametrize("path", ["messenger.yaml", "config/messenger.yaml", "config/packages/messenger.yaml"])
def test_env_files_are_those_of_the_project(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(f"project/{path}", "messenger: {store: '%env(STORE)%/%kernel.project_dir%'}")
    write("project/.env", "STORE=sql://of-the-project\nDATABASE_URL=sqlite:///of-the-project.db")
    write(".env", "STORE=sql://of-the-working-directory")

    config = load(f"project/{path}", environment={})

    assert config.store == f"sql://of-the-project/{tmp_path / 'project'}"
    assert config.connections == {"default": "sqlite:///of-the-project.db"}


def test_the_project_of_a_file_that_stands_anywhere_is_its_folder(tmp_path: Path) -> None:
    assert project_of(tmp_path / "etc" / "bus.yaml") == tmp_path / "etc"
    assert project_of(tmp_path / "packages" / "bus.yaml") == tmp_path / "packages"


def test_a_problem_in_an_env_file_is_reported_with_its_line() -> None:
    write("messenger.yaml")
    write(".env", "A=1\nnonsense")

    with pytest.raises(ConfigurationError, match=r"\.env:2: expected NAME=value$"):
        load(environment={})


def test_a_file_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    write("messenger.yaml")

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigurationError, match=r'the file "messenger.yaml" cannot be read: Permission denied'):
        load(environment={})


def test_a_configuration_given_no_default_connection_has_one() -> None:
    write("messenger.yaml", "messenger: {connections: {reports: 'sqlite:///r.db'}}")

    assert load(environment={}).connections == {"default": "sqlite:///var/bus.db", "reports": "sqlite:///r.db"}


def test_a_default_connection_of_the_file_wins() -> None:
    write("messenger.yaml", "messenger: {connections: {default: 'sqlite:///mine.db'}}")

    assert load(environment={"DATABASE_URL": "sqlite:///other.db"}).connections == {"default": "sqlite:///mine.db"}


def test_notes_come_with_the_configuration() -> None:
    write("messenger.yaml", "framework: {messenger: {}, secret: x}")

    loaded = load_with_notes(environment={})

    assert loaded.notes == ("messenger.yaml:1:28 framework.secret: left aside: it is no part of messenger",)
    assert loaded.config == load(environment={})
