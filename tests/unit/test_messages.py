from __future__ import annotations

import subprocess
import sys
import types as python_types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from bus.errors import ConfigurationError, EncodingError
from bus.messages import MessageOptions, MessageTypes, is_marked, main_module_name, message, options_of, wire_name


class Plain:
    class Inner:
        pass


@message("order.placed", aliases=["order.created", "shop.OldName"])
class Named:
    pass


@message
class Marked:
    pass


@message("App\\Event\\OrderPlaced")
class Php:
    pass


def made(name: str, module: str = "shop.messages", qualname: str | None = None) -> type:
    return type(name, (), {"__module__": module, "__qualname__": qualname or name})


# --- @message ---


def test_a_class_is_called_by_its_python_path_unless_it_has_a_name() -> None:
    assert wire_name(Plain) == f"{__name__}.Plain"
    assert wire_name(Plain.Inner) == f"{__name__}.Plain.Inner"
    assert wire_name(Marked) == f"{__name__}.Marked"
    assert wire_name(Named) == "order.placed"
    assert wire_name(Php) == "App\\Event\\OrderPlaced"


def test_the_mark_carries_what_was_said() -> None:
    marked = message("a", aliases=["b"], transport=["t", "u"], partition_key="key", rename="camel")(made("A"))
    assert options_of(marked) == MessageOptions("a", ("b",), ("t", "u"), "key", "camel")
    assert options_of(Plain) == MessageOptions()


def test_one_alias_and_one_transport_need_no_list() -> None:
    marked = message(aliases="old.name", transport="async")(made("A"))
    assert options_of(marked).aliases == ("old.name",)
    assert options_of(marked).transport == ("async",)


def test_the_leading_backslash_of_a_php_name_is_not_part_of_it() -> None:
    marked = message("\\App\\Order", aliases=["\\App\\Old"])(made("A"))
    assert options_of(marked).name == "App\\Order"
    assert options_of(marked).aliases == ("App\\Old",)


def test_a_mark_is_not_inherited() -> None:
    child = type("Child", (Named,), {"__module__": "shop"})
    assert is_marked(Named)
    assert not is_marked(child)
    assert not is_marked(Plain)
    assert options_of(child) == MessageOptions()
    assert wire_name(child) == "shop.Child"


@pytest.mark.parametrize("decorate", [dataclass, dataclass(frozen=True, slots=True), attrs.define, attrs.frozen])
def test_the_mark_holds_above_and_below_the_decorator_that_makes_the_class(decorate: Any) -> None:
    assert wire_name(message("above")(decorate(made("Made")))) == "above"
    assert wire_name(decorate(message("below")(made("Made")))) == "below"


@pytest.mark.parametrize("base", [msgspec.Struct, pydantic.BaseModel])
def test_the_mark_holds_on_a_class_with_a_metaclass(base: type) -> None:
    cls = message("model")(type(base)("Model", (base,), {"__module__": __name__}))
    assert wire_name(cls) == "model"
    assert wire_name(type(base)("Child", (cls,), {"__module__": "shop"})) == "shop.Child"


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\\", "App\\Order[]", "x" * 256, "\ud800", 5, ["a"]])
def test_a_name_that_the_wire_cannot_carry_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a message; a name has 1 to 255 printable characters"):
        message(name)
    with pytest.raises(ConfigurationError, match="is no name for a message"):
        message("good", aliases=[name])


def test_another_style_of_keys_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r'@message\(rename="pascal"\) is not known; "camel" is'):
        message(rename="pascal")  # type: ignore[call-overload]


def test_only_a_class_is_marked() -> None:
    with pytest.raises(ConfigurationError, match="@message stands above a class, not above <function"):
        message("a")(lambda: None)  # type: ignore[type-var]


def test_a_local_class_has_no_name_on_the_wire() -> None:
    class Local:
        pass

    with pytest.raises(EncodingError, match=r'Local" cannot be found by name in another process; give it a stable one'):
        wire_name(Local)
    assert wire_name(message("local")(Local)) == "local"


# --- the registry ---


def test_a_type_is_found_by_name_alias_and_python_path() -> None:
    types = MessageTypes([Plain, Named, Php])
    assert types.by_name(f"{__name__}.Plain") is Plain
    for name in ("order.placed", "order.created", "shop.OldName", f"{__name__}.Named"):
        assert types.by_name(name) is Named
    assert types.by_name("App\\Event\\OrderPlaced") is Php
    assert types.by_name("\\App\\Event\\OrderPlaced") is Php


@pytest.mark.parametrize("name", ["", "\\", "Plain", "order", "order.placed.", "ORDER.PLACED", "\\\\order.placed"])
def test_nothing_is_found_by_another_name(name: str) -> None:
    assert MessageTypes([Plain, Named]).by_name(name) is None


def test_names_are_listed_sorted() -> None:
    assert MessageTypes([Named]).names() == ("order.created", "order.placed", "shop.OldName", f"{__name__}.Named")


def test_a_type_added_twice_is_known_once() -> None:
    types = MessageTypes([Named])
    types.add(Named)
    assert list(types) == [Named]
    assert Named in types
    assert Plain not in types


def test_two_types_with_one_name_are_refused_with_both_their_paths() -> None:
    other = message("order.placed")(made("Other"))
    with pytest.raises(ConfigurationError) as caught:
        MessageTypes([Named, other])
    assert str(caught.value) == (
        f'The message name "order.placed" stands for both "{__name__}.Named" and "shop.messages.Other"; '
        'give one of them another name with @message("...").'
    )


@pytest.mark.parametrize("alias", ["order.placed", "order.created"])
def test_an_alias_that_is_anothers_name_or_alias_is_refused(alias: str) -> None:
    with pytest.raises(ConfigurationError, match=f'"{alias}" stands for both'):
        MessageTypes([Named, message("other", aliases=[alias])(made("Other"))])


def test_a_name_that_was_given_wins_over_the_python_path_of_another() -> None:
    moved = message("order.v2")(made("Order", "shop.orders"))
    successor = message("shop.orders.Order")(made("NewOrder"))
    for order in ([moved, successor], [successor, moved]):
        assert MessageTypes(order).by_name("shop.orders.Order") is successor


def test_further_names_can_be_given_from_outside() -> None:
    types = MessageTypes([Named], {"legacy": "order.created", "\\App\\Legacy": f"{__name__}.Named"})
    assert types.by_name("legacy") is Named
    assert types.by_name("App\\Legacy") is Named


def test_a_further_name_for_nothing_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError) as caught:
        MessageTypes([Named], {"legacy": "order.place"})
    assert str(caught.value) == (
        'The alias "legacy" points to "order.place", which is no known message; did you mean "order.placed"?'
    )


def test_a_further_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r'"order\.placed" stands for both'):
        MessageTypes([Named, Plain], {"order.placed": f"{__name__}.Plain"})


def test_a_type_that_cannot_be_named_is_not_known_to_the_wire() -> None:
    types = MessageTypes([made("Local", qualname="function.<locals>.Local")])
    assert types.names() == ()
    assert list(types) == []


def test_the_name_of_a_type_is_the_one_by_which_it_became_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cls = made("Job", "__main__")
    run_as(monkeypatch, file=tmp_path / "jobs.py", cwd=tmp_path)
    types = MessageTypes([cls])
    monkeypatch.chdir("/")
    assert types.name_of(cls) == "jobs.Job"
    assert types.name_of(Plain) == f"{__name__}.Plain"


# --- __main__ ---


def run_as(
    monkeypatch: pytest.MonkeyPatch, *, file: Path | str | None = None, spec: str | None = None, cwd: Path | None = None
) -> None:
    main = python_types.ModuleType("__main__")
    main.__spec__ = None if spec is None else python_types.SimpleNamespace(name=spec)  # type: ignore[assignment]
    if file is not None:
        main.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "__main__", main)
    if cwd is not None:
        monkeypatch.chdir(cwd)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("jobs.py", "jobs"),
        ("shop/jobs.py", "shop.jobs"),
        ("shop/__main__.py", "shop.__main__"),
        ("shop/__init__.py", "shop"),
        ("my-jobs.py", None),
        ("my-shop/jobs.py", None),
        ("jobs.v2.py", None),
        ("jobs", None),
        ("__init__.py", None),
        ("../outside.py", None),
    ],
)
def test_a_script_is_named_by_its_path_below_the_working_directory(
    path: str, expected: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    below = tmp_path / "here"
    below.mkdir()
    run_as(monkeypatch, file=below / path, cwd=below)
    assert main_module_name() == expected
    run_as(monkeypatch, file=path)
    assert main_module_name() == expected


def test_a_script_reached_through_a_link_to_the_directory_is_named_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run_as(monkeypatch, file=tmp_path / "link" / "jobs.py", cwd=tmp_path / "real")
    assert main_module_name() == "jobs"


@pytest.mark.parametrize("spec", ["shop.jobs", "shop.__main__"])
def test_a_module_run_with_m_is_named_by_its_import_path(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_as(monkeypatch, spec=spec, file="/somewhere/else.py")
    assert main_module_name() == spec


def test_a_directory_that_is_run_is_named_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_as(monkeypatch, spec="__main__", file=tmp_path / "shop" / "__main__.py", cwd=tmp_path)
    assert main_module_name() == "shop.__main__"


def test_an_interactive_session_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    run_as(monkeypatch)
    assert main_module_name() is None


def test_a_class_of_main_is_known_by_its_import_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_as(monkeypatch, file=tmp_path / "shop" / "jobs.py", cwd=tmp_path)
    job, named = made("Job", "__main__"), message("named")(made("Named", "__main__"))
    types = MessageTypes([job, named])
    assert wire_name(job) == "shop.jobs.Job"
    assert types.by_name("shop.jobs.Job") is job
    assert types.by_name("shop.jobs.Named") is named
    assert types.by_name("named") is named


def test_a_class_of_a_main_without_import_path_asks_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    run_as(monkeypatch)
    with pytest.raises(EncodingError, match=r'"Job" cannot be found by name.*@message\("some.name"\)'):
        wire_name(made("Job", "__main__"))
    assert wire_name(message("job")(made("Job", "__main__"))) == "job"


def test_a_running_file_that_was_imported_a_second_time_is_recognised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_as(monkeypatch, file=tmp_path / "jobs.py", cwd=tmp_path)
    with pytest.raises(
        ConfigurationError, match=r'"__main__\.Job" and "jobs\.Job"; the running file was imported a second'
    ):
        MessageTypes([made("Job", "__main__"), made("Job", "jobs")])


@pytest.mark.parametrize("command", [["jobs.py"], ["-m", "jobs"], ["./jobs.py"]])
def test_a_real_program_of_one_file_gives_its_class_the_same_name_however_it_is_started(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "jobs.py").write_text(
        "from bus.messages import wire_name\nclass Job: pass\nprint(wire_name(Job))\n", encoding="utf-8"
    )
    root = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env={"PYTHONPATH": root}, check=True, capture_output=True, text=True
    )
    assert result.stdout == "jobs.Job\n"
