"""Size and depth are bounded before a parser sees the text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus import headers
from bus.envelope import Envelope
from bus.errors import DecodingError, EncodingError
from bus.messages import MessageTypes, message
from bus.serializer import EncodedEnvelope, JsonSerializer
from bus.stamps import SerializerStamp
from bus.wire.nesting import nested_deeper_than

# The same examples in each run, however slow the machine is.
STEADY = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@message("note")
@dataclass
class Note:
    content: Any = None


TYPES = MessageTypes([Note])
SERIALIZER = JsonSerializer(TYPES)
CONTEXT = headers.STAMP_PREFIX + headers.SYMFONY_STAMPS + "SerializerStamp"


def encoded(body: bytes, **more: str) -> EncodedEnvelope:
    return EncodedEnvelope(body, {"type": "note", **more})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


json_values = st.recursive(
    st.none() | st.text('[]{}"\\a', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner, max_size=3),
    max_leaves=30,
)


@STEADY
@given(json_values, st.integers(0, 12))
def test_the_depth_of_json_is_found_without_parsing(value: Any, limit: int) -> None:
    text = json.dumps(value)
    assert nested_deeper_than(limit, text) is (depth_of(value) > limit)
    assert nested_deeper_than(limit, text.encode()) is (depth_of(value) > limit)


@STEADY
@given(st.text('[]{}"\\,1', max_size=60).map(str.encode), st.integers(1, 20))
def test_a_parser_never_gets_deeper_into_broken_json_than_was_found(text: bytes, limit: int) -> None:
    if not nested_deeper_than(limit, text):
        reached = 0
        depth, in_string, escaped = 0, False, False
        for char in text.decode():
            if in_string:
                in_string, escaped = escaped or char != '"', not escaped and char == "\\"
            elif char == '"':
                in_string = True
            elif char == "\\":
                break  # no JSON: here every parser stops
            else:
                depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(char, 0)
                if depth < 0:
                    break
                reached = max(reached, depth)
        assert reached <= limit


def test_the_parser_would_recurse_into_a_body_of_100_000_levels() -> None:
    with pytest.raises(RecursionError):
        msgspec.json.decode(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    "body",
    [
        b'{"content":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 1_000_000,
        b'{"content":' * 100_000,
        b'{"content":"\\"' + b"[" * 200 + b'",' + b'"unknown":' + b"[" * 200,
        b'{"unknown":"\\\\",' + b'"content":' + b"[" * 200,
    ],
)
def test_a_deeply_nested_body_is_refused_before_it_is_parsed(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    SERIALIZER.decode(encoded(b"{}"))
    monkeypatch.setattr(SERIALIZER, "_by_name", {"note": type("Codec", (), {"decode": parsed.append})})
    with pytest.raises(DecodingError, match="its body is nested deeper than 128 levels"):
        SERIALIZER.decode(encoded(body))
    assert parsed == []


def test_nesting_up_to_the_bound_comes_through_both_ways() -> None:
    note = Note(nested(127))
    written = SERIALIZER.encode(Envelope(note))
    assert SERIALIZER.decode(written).message == note


def test_a_message_deeper_than_the_bound_is_not_written_because_nobody_could_read_it() -> None:
    with pytest.raises(EncodingError, match='"note" cannot be written: it is nested deeper than 128 levels'):
        SERIALIZER.encode(Envelope(Note(nested(128))))


@pytest.mark.parametrize("value", [nested(5_000), "itself"])
def test_a_message_without_end_is_refused(value: Any) -> None:
    if value == "itself":
        value = []
        value.append(value)
    with pytest.raises(EncodingError, match="nested too deeply, or contains itself"):
        SERIALIZER.encode(Envelope(Note(value)))


def test_brackets_inside_of_strings_do_not_count() -> None:
    note = Note(["[" * 5_000, '"' + "{" * 5_000, "\\"])
    assert SERIALIZER.decode(SERIALIZER.encode(Envelope(note))).message == note


def test_many_small_objects_side_by_side_do_not_count() -> None:
    note = Note([{"tags": [str(number), "]"]} for number in range(5_000)])
    assert SERIALIZER.decode(SERIALIZER.encode(Envelope(note))).message == note


def test_a_header_is_bounded_in_depth() -> None:
    deep = '[{"context":{"a":' + "[" * 200 + "]" * 200 + "}}]"
    with pytest.raises(DecodingError, match=r'SerializerStamp" cannot be read: it is nested deeper than 128 levels'):
        SERIALIZER.decode(encoded(b"{}", **{CONTEXT: deep}))


def test_a_body_is_bounded_in_size_to_the_byte() -> None:
    body = b'{"content":"1234"}'
    assert JsonSerializer(TYPES, max_size=len(body)).decode(encoded(body)).message == Note("1234")
    with pytest.raises(DecodingError, match='type "note" cannot be read: its body has 18 bytes, and 17 are allowed'):
        JsonSerializer(TYPES, max_size=len(body) - 1).decode(encoded(body))


def test_what_is_too_large_to_be_read_is_not_written() -> None:
    assert JsonSerializer(TYPES, max_size=18).encode(Envelope(Note("1234"))).body == b'{"content":"1234"}'
    with pytest.raises(EncodingError, match="18 bytes, and 17 are allowed; send a reference"):
        JsonSerializer(TYPES, max_size=17).encode(Envelope(Note("1234")))


def test_16_mib_are_allowed_unless_said_otherwise() -> None:
    with pytest.raises(DecodingError, match="has 16777217 bytes, and 16777216 are allowed"):
        SERIALIZER.decode(encoded(b" " * (16 * 1024 * 1024 + 1)))


def test_a_header_is_bounded_in_size() -> None:
    serializer = JsonSerializer(TYPES, max_size=100)
    with pytest.raises(DecodingError, match="it is longer than 100 characters"):
        serializer.decode(encoded(b"{}", **{CONTEXT: f'[{{"context":{{"a":"{"x" * 100}"}}}}]'}))


def test_a_stamp_within_the_bounds_comes_through() -> None:
    written = SERIALIZER.encode(Envelope(Note(), (SerializerStamp({"groups": nested(100)}),)))
    assert SERIALIZER.decode(written).stamps == (SerializerStamp({"groups": nested(100)}),)
