from __future__ import annotations

import json
from typing import Any

import pytest

from bus.cli.output import Output, printable, printable_lines

ESCAPE = "\x1b[31mred\x1b[0m"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_text_without_control_characters_is_left_alone() -> None:
    assert printable('Grüße "日本" 😀') == 'Grüße "日本" 😀'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb", r"a\r\nb"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_of_a_block_stay_lines() -> None:
    assert printable_lines("a\n\x1b[2Jb") == "a\n\\x1b[2Jb"


def test_a_piped_table_is_plain_text_in_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("transport", "ready"), [("async", 12345), ("a", None)], numeric=("ready",))

    assert printed(capsys).splitlines() == ["transport  ready", "async      12345", "a              -"]


def test_a_table_on_a_terminal_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    Output(ansi=True).table(("transport", "ready"), [("async", 12345)], numeric=("ready",))

    drawn = printed(capsys)
    assert "\x1b[" in drawn
    assert "12,345" in drawn


def test_a_drawn_table_shows_markup_and_control_characters_of_a_message_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Output(ansi=True).table(("id", "error"), [("m-1", f"[red]{ESCAPE}[/red]")])

    drawn = printed(capsys)
    assert r"[red]\x1b[31mred\x1b[0m[/red]" in drawn


def test_an_id_is_never_cut_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    message_id = "0197b1c2-0000-7000-8000-000000000001"

    Output(ansi=True).table(("id", "class", "error"), [(message_id, "shop.OrderPlaced", "long " * 40)])

    assert message_id in printed(capsys)


@pytest.mark.parametrize("value", [ESCAPE, "\x9b\x7f\u202e", "\ud800", "two\nlines", "\U000e0041", "😀"])
def test_json_keeps_every_character_and_prints_none_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str], value: str
) -> None:
    Output().json({"error": value})

    text = printed(capsys)
    assert json.loads(text) == {"error": value}
    assert all(line.isprintable() for line in text.splitlines())


def test_details_leave_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    pairs: list[tuple[str, Any]] = [("id", "m-1"), ("origin", None), ("error", ESCAPE)]

    Output().details(pairs)

    assert printed(capsys).splitlines() == ["id     m-1", r"error  \x1b[31mred\x1b[0m"]


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Output().note("No messages.")

    assert capsys.readouterr() == ("", "No messages.\n")
