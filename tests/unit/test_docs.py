"""What the documentation shows is run.

A page is one session in a folder of its own that holds the example application. In it

- a block that begins with the comment ``# some/file.py`` is written to that file,
- other ``python`` blocks run one after the other, in one namespace per page,
- other ``yaml`` blocks are loaded as a configuration,
- ``console`` blocks run their ``$`` lines and must print what stands below them (``...`` is any text), or succeed where
  nothing stands there; an ``export`` holds for the rest of the page,
- a block below ``<!-- not run: REASON -->`` is only looked at: Python has to compile, YAML has to be YAML.

Blocks in the languages of ``ONLY_READ`` are not run. In all of them, and in inline code, the command line of each
``bus COMMAND`` has to be a valid one.
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

import click
import pytest
import yaml

from bus.cli.command import BusCommand
from bus.cli.main import COMMANDS, bus
from bus.config import loader

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BESIDE = sorted({*ROOT.glob("*.md"), *ROOT.glob("tests/*/*.md"), *ROOT.glob("bench/**/*.md")} - set(PAGES))
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
RUN = {"console", "python", "yaml"}
ONLY_READ = {"sh", "text", "ini", "toml", "dockerfile"}
# A command line ends at a comment, a pipe or the end of the line; its placeholders stand for valid values.
COMMAND_LINE = re.compile(r"(?:^ *|[/=])bus (?=[a-z-])([^#|<>&\n]*)", re.MULTILINE)
LIST_FORM = re.compile(r"\[\"?bus\"?, ([^\]]*)\]")
EXAMPLES = {"N": "1", "T": "1s", "M": "1M"}
FILE_NAME = re.compile(r"# (\S+\.(?:py|yaml|jsonl))\n")


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def file(self) -> str | None:
        named = FILE_NAME.match(self.text)
        return named[1] if named else None


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(line, found["language"], found["text"], found["reason"])


def command_lines_in(page: Path) -> Iterator[list[str]]:
    """Yield the words behind ``bus`` of every command that the page shows without running it."""
    for block in blocks_of(page):
        if block.language not in RUN or block.not_run is not None:
            text = LIST_FORM.sub(lambda found: "bus " + re.sub('[",]', "", found[1]), block.text)
            yield from map(shlex.split, COMMAND_LINE.findall(text))
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", page.read_text())):
        yield from map(shlex.split, COMMAND_LINE.findall(" ".join(code.split())))


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


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
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


def check_done(page: Path, block: Block, command: str, wanted: str, done: subprocess.CompletedProcess[str]) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    where = f"{page.name}:{block.line} $ {command}"
    if wanted.strip() and not doctest.OutputChecker().check_output(wanted, done.stdout, flags):
        pytest.fail(f"{where}\nshown:\n{wanted}\nprinted:\n{done.stdout}", pytrace=False)
    # "... passed" is also printed where others failed.
    if (not wanted.strip() or "passed" in wanted) and done.returncode != 0:
        pytest.fail(f"{where}\nended with {done.returncode}:\n{done.stdout}", pytrace=False)


def look_at(block: Block) -> None:
    if block.language == "python":
        compile(block.text, "shown.py", "exec")
    elif block.language == "yaml":
        list(yaml.safe_load_all(block.text))


@pytest.mark.timeout(300)  # a page may start some twenty processes
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_page_shows_works(page: Path, session: Path, environment: dict[str, str]) -> None:
    program = ""
    for block in blocks_of(page):
        if block.not_run is not None:
            look_at(block)
        elif block.file is not None:
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
                check_done(page, block, command, wanted, run(["bash", "-c", command], session, environment))
    if program:
        (session / "shown.py").write_text(program + '\nprint("every block ran")\n')
        assert "every block ran\n" in run([sys.executable, "shown.py"], session, environment).stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_cannot_be(page: Path) -> None:
    openings = re.findall(r"^ *```.*$", page.read_text(), re.MULTILINE)[::2]
    languages = [block.language for block in blocks_of(page)]

    assert [each.strip("` ") for each in openings] == languages
    assert set(languages) - RUN - ONLY_READ == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_the_page_is_valid(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BusCommand, "invoke", lambda *_: None)
    for words in command_lines_in(page):
        if len(words) == 1 and words[0] in COMMANDS:
            continue  # the command is named, not called
        try:
            bus.main([EXAMPLES.get(word, word) for word in words], standalone_mode=False)
        except click.UsageError as error:
            pytest.fail(f"bus {shlex.join(words)}: {error.format_message()}", pytrace=False)


def anchors_of(page: Path) -> set[str]:
    """Return what links to the headings of a page end with."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        aim = page.parent / target if target else page

        assert aim.exists(), target
        assert not anchor or anchor in anchors_of(aim), f"{target}#{anchor}"
