from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import headers as header_names
from bus.transports.sql.rows import HELD, HELD_PARKED, PARKED, from_texts, time_text, to_texts

HEADERS = {"type": "x"}


def stored(body: bytes, headers: dict[str, str]) -> tuple[bytes, bytes]:
    body_text, headers_text = to_texts(body, headers)
    return body_text.encode(), headers_text.encode()


@given(st.binary(), st.dictionaries(st.text(st.characters()), st.text(st.characters())))
def test_every_body_and_every_header_survives_the_columns(body: bytes, headers: dict[str, str]) -> None:
    again_body, again_headers = from_texts(*stored(body, headers))

    assert again_body == body
    assert again_headers == headers


@given(st.binary(), st.binary())
def test_whatever_stands_in_a_row_can_be_read(body: bytes, headers: bytes) -> None:
    again_body, again_headers = from_texts(body, headers)

    assert isinstance(again_body, bytes)
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in again_headers.items())


def test_text_is_stored_as_text() -> None:
    assert to_texts("Grüße".encode(), HEADERS) == ("Grüße", '{"type":"x"}')


@pytest.mark.parametrize("body", [b"a\0b", b"\xff"], ids=["nul", "no utf-8"])
def test_what_a_text_column_cannot_hold_is_stored_as_base64(body: bytes) -> None:
    text, headers = to_texts(body, HEADERS)

    assert text.isascii()
    assert json.loads(headers) == {"type": "x", header_names.BODY_ENCODING: "base64"}


@pytest.mark.parametrize("foreign", ["", "base64", "base64,base64", "gzip"])
@pytest.mark.parametrize("body", [b"{}", b"e30=", b"\xff"])
def test_a_header_of_the_name_of_the_mark_comes_out_as_it_went_in(foreign: str, body: bytes) -> None:
    headers = {header_names.BODY_ENCODING: foreign}

    assert from_texts(*stored(body, headers)) == (body, headers)


def test_a_marked_body_that_is_no_base64_is_left_as_it_is() -> None:
    headers = json.dumps({header_names.BODY_ENCODING: "base64"}).encode()

    assert from_texts(b"%%%", headers) == (b"%%%", {header_names.BODY_ENCODING: "base64"})


def test_phps_empty_headers_are_no_headers() -> None:
    assert from_texts(b"{}", b"[]") == (b"{}", {})


@pytest.mark.parametrize("text", [b"", b"null", b"[1]", b'"x"', b"{", b"\xff\0", b"[" * 100_000])
def test_headers_that_are_no_object_are_kept_raw(text: bytes) -> None:
    assert from_texts(b"body", text) == (
        b"body",
        {header_names.RAW_HEADERS: text.decode(errors="backslashreplace")},
    )


def test_header_values_that_are_no_text_become_their_json() -> None:
    assert from_texts(b"", b'{"n": 5, "l": ["a"], "t": "x"}')[1] == {"n": "5", "l": '["a"]', "t": "x"}


def test_a_number_in_a_body_column_is_read_as_its_text() -> None:
    assert from_texts(5, b"{}") == (b"5", {})


def test_times_are_utc_with_a_blank_and_milliseconds() -> None:
    assert time_text(1_700_000_000_007) == "2023-11-14 22:13:20.007"


def test_a_table_of_whole_seconds_gets_its_times_floored() -> None:
    assert time_text(1_700_000_000_999, whole_seconds=True) == "2023-11-14 22:13:20"


@given(st.integers(0, 2**62), st.integers(0, 2**62), st.booleans())
def test_texts_keep_the_order_of_their_times(one: int, other: int, floored: bool) -> None:
    earlier, later = sorted([one, other])

    assert time_text(earlier, whole_seconds=floored) <= time_text(later)


@given(st.integers(0, 2**70))
def test_every_due_time_is_before_what_is_held_and_what_is_parked(milliseconds: int) -> None:
    assert time_text(milliseconds) < HELD < HELD_PARKED < PARKED
