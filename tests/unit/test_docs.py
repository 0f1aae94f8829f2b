"""What the documentation shows is run.

A page is one session in a folder of its own that holds the example application. In it

- a block that begins with the comment ``# some/file.py`` is written to that file,
- other ``python`` blocks run one after the other, in one namespace per page,
- other ``yaml`` blocks are loaded as a configuration,
- ``console`` blocks run their ``$`` lines and must print what stands below them (``...`` is any text);
  an ``export`` holds for the rest of the page.

All other blocks are only read.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bus.config import loader

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\S+\.(?:py|yaml|jsonl))\n")


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        named = FILE_NAME.match(self.text)
        return named[1] if named else None


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        yield Block(text.count("\n", 0, found.start()) + 1, found[2], found[3])


@pytest.fixture
def session(tmp_path: Path) -> Path:
    for folder in ("examples", "config"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which ``bus`` and ``python`` are those of this test run and nothing is configured.

    Standard output is not buffered, so that it stands between the logs where it stands on a terminal.
    """
    commands = tmp_path_factory.mktemp("bin")
    for name, arguments in (("bus", "-m bus"), ("python", "")):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        command.chmod(0o755)
    ours = ("BUS_", "MESSENGER_", "SHOP_", "NORTHPAY_", "DATABASE_URL", "APP_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "bus.testing.pytest_plugin",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def commands_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command with the output that is written below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\"):
            more, _, output = output.partition("\n")
            command = f"{command[:-1]} {more}"
        yield command, output


def exported_by(command: str) -> dict[str, str]:
    words = shlex.split(command, comments=True) if command.startswith("export ") else []
    return {name: value for name, _, value in (word.partition("=") for word in words[1:])}


def check_output(page: Path, block: Block, command: str, wanted: str, got: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if wanted.strip() and not doctest.OutputChecker().check_output(wanted, got, flags):
        pytest.fail(f"{page.name}:{block.line} $ {command}\nshown:\n{wanted}\nprinted:\n{got}", pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_page_shows_works(page: Path, session: Path, environment: dict[str, str]) -> None:
    program = ""
    for block in blocks_of(page):
        if block.file is not None:
            target = session / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
        elif block.language == "python":
            # Blank lines keep the line numbers of a traceback those of the page.
            program += "\n" * (block.line - program.count("\n")) + block.text
        elif block.language == "yaml":
            (session / "shown.yaml").write_text(block.text)
            loader.load(session / "shown.yaml", environment=environment)
        elif block.language == "console":
            for command, wanted in commands_in(block.text):
                environment.update(exported_by(command))
                printed = run(["bash", "-c", command], session, environment)
                check_output(page, block, command, wanted, printed)
    if program:
        (session / "shown.py").write_text(program + '\nprint("every block ran")\n')
        assert "every block ran\n" in run([sys.executable, "shown.py"], session, environment)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []
