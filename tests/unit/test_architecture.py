"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import builtins
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import errors, headers

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "bus").rglob("*.py"))
PROGRAMS = [*SOURCES, *sorted((ROOT / "bench").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.py"))]
MODULE_NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc", "tools", "base_classes"}
# These libraries call code of ours (a command, a decoding hook) and want their own errors from it.
LIBRARIES_THAT_EXPECT_THEIR_OWN = ("click.", "msgspec.")
DRIVER_FILES = {"__init__.py", "options.py", "connection.py", "driver.py"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def functions_in(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without those of its docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def strings_in(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every string that is not a docstring, with its line."""
    tree = tree_of(path)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_no_file_has_more_than_400_lines(path: Path) -> None:
    lines = len(path.read_text().splitlines())

    assert lines <= 400


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_function_has_more_than_50_lines(path: Path) -> None:
    too_long = {each.name: lines_of(each) for each in functions_in(path) if lines_of(each) > 50}

    assert too_long == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_left_to_be_done(path: Path) -> None:
    assert re.findall(r"NotImplementedError|\bTODO\b|\bFIXME\b|\bXXX\b", path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_function_rebinds_a_module_variable(path: Path) -> None:
    assert [node.names for node in ast.walk(tree_of(path)) if isinstance(node, ast.Global)] == []


def test_every_module_has_a_name_that_says_what_it_is() -> None:
    names = {part.removesuffix(".py") for path in SOURCES for part in path.relative_to(ROOT).parts}

    assert names & MODULE_NAMES_THAT_SAY_NOTHING == set()


def test_header_names_are_spelled_out_in_one_file_only() -> None:
    names = {name: value for name, value in vars(headers).items() if name.isupper() and isinstance(value, str)}
    own = {value for name, value in names.items() if name not in {"TYPE", "JSON"}}
    elsewhere = [
        f"{name_of(path)}:{line} {text}"
        for path in SOURCES
        if path.name != "headers.py" and "testing" not in path.parts
        for line, text in strings_in(path)
        if any(header.lower() in text.lower() for header in own)
    ]

    assert elsewhere == []


def raised_in(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the name of every class that a file raises; what is raised again under a variable's name is not one."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            if name.rpartition(".")[2][:1].isupper():
                yield node.lineno, name


@functools.cache
def caught_in(folder: Path) -> set[str]:
    """Return the name of every class that the files of a folder catch."""
    return {
        ast.unparse(name)
        for path in folder.glob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and node.type is not None
        for name in (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type])
    }


def test_every_error_that_is_not_caught_near_by_stands_in_the_error_tree() -> None:
    public = {name for name, value in vars(errors).items() if isinstance(value, type)}
    public |= {
        "AssertionError",
        "BaseExceptionGroup",
        "TypeError",
        "ValueError",
        "AttributeError",
        "KeyError",
        "StopIteration",
    }
    strangers = [
        f"{name_of(path)}:{line} {name}"
        for path in SOURCES
        for line, name in raised_in(path)
        if name.rpartition(".")[2] not in public | caught_in(path.parent) | caught_in(path.parent.parent)
        and not name.startswith(LIBRARIES_THAT_EXPECT_THEIR_OWN)
    ]

    assert strangers == []


def test_no_error_of_ours_hides_one_of_python() -> None:
    ours = {name for name, value in vars(errors).items() if isinstance(value, type)}

    assert ours & set(dir(builtins)) == set()


def test_every_driver_folder_has_the_same_files() -> None:
    folders = [path for path in (ROOT / "bus/transports").iterdir() if path.is_dir() and path.name != "__pycache__"]
    missing = {folder.name: DRIVER_FILES - {path.name for path in folder.iterdir()} for folder in folders}

    assert missing == {folder.name: set() for folder in folders}


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] in {version, "Unreleased"}
