"""What the serializer promises to transports: original bytes, known types only, one kind of error, nothing lost."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus import headers
from bus.envelope import Envelope
from bus.errors import BusError, DecodingError, UnrecoverableError
from bus.messages import MessageTypes, UndecodableMessage, message
from bus.serializer import EncodedEnvelope, JsonSerializer, Serializer
from bus.stamps import (
    BusNameStamp,
    ClaimStamp,
    DelayStamp,
    ErrorDetailsStamp,
    HandledStamp,
    MessageIdStamp,
    OriginStamp,
    RedeliveryStamp,
    SentToFailureTransportStamp,
    Stamp,
)
from bus.transports.base import Claim

# The same examples in each run, however slow the machine is.
STEADY = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SYMFONY = headers.STAMP_PREFIX + headers.SYMFONY_STAMPS
SECRET = "hunter2"


class Color(Enum):
    RED = "red"


@message("order.placed", aliases=["order.created", "App\\Order"])
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    total: int = 0
    color: Color = Color.RED
    at: datetime | None = None
    by_name: dict[str, int] = field(default_factory=dict)


@message("hostile")
@dataclass
class Hostile:
    text: str = ""

    def __post_init__(self) -> None:
        raise ERRORS[self.text]


@message("pydantic")
class Model(pydantic.BaseModel):
    number: int = 0
    any_map: dict[str, int] = {}

    @pydantic.field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        if number == 666:
            raise ValueError(SECRET)
        if number == 667:
            raise SystemExit(SECRET)
        return number


ERRORS: dict[str, BaseException] = {
    "value": ValueError(SECRET),
    "key": KeyError(SECRET),
    "exit": SystemExit(SECRET),
    "interrupt": KeyboardInterrupt(SECRET),
    "generator": GeneratorExit(SECRET),
    "memory": MemoryError(SECRET),
    "group": BaseExceptionGroup(SECRET, [KeyboardInterrupt()]),
    "decoding": DecodingError("a"),
}
TYPES = MessageTypes([OrderPlaced, Hostile, Model])
SERIALIZER = JsonSerializer(TYPES)


def encoded(body: bytes = b'{"order_id":"o"}', **fields: Any) -> EncodedEnvelope:
    return EncodedEnvelope(body, {"type": "order.placed", **fields})


def refusal(made: EncodedEnvelope) -> str:
    with pytest.raises(DecodingError) as caught:
        SERIALIZER.decode(made)
    text = str(caught.value)
    assert SECRET not in text
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert len(text) <= 400
    return text


# --- encoding ---


def test_the_json_serializer_is_a_serializer() -> None:
    serializer: Serializer = SERIALIZER
    assert isinstance(serializer, Serializer)


def test_with_a_body_the_original_bytes_are_kept_and_only_headers_are_made() -> None:
    order = OrderPlaced("changed by a handler")
    original = b' {"order_id": "as it came", "unknown": 1.0}'
    again = SERIALIZER.encode(Envelope(order, (RedeliveryStamp(1),)), original)
    assert again.body is original
    assert again.headers == {
        "type": "order.placed",
        f"{SYMFONY}RedeliveryStamp": '[{"retryCount":1,"exceptionMessage":null,"flattenException":null}]',
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize("name", ["order.created", "App\\Order", "\\App\\Order"])
def test_a_retry_keeps_the_name_under_which_the_message_came(name: str) -> None:
    came = encoded(type=name)
    claim = ClaimStamp(Claim(1, 1, "orders"), came.body, came.headers)
    received = SERIALIZER.decode(came).with_(claim, RedeliveryStamp(1))
    assert SERIALIZER.encode(received, came.body).headers["type"] == name
    assert SERIALIZER.encode(received).headers["type"] == "order.placed"


def test_with_a_body_the_message_itself_need_not_be_writable() -> None:
    order = OrderPlaced(object())  # type: ignore[arg-type]
    assert SERIALIZER.encode(Envelope(order), b"{}").body == b"{}"


def test_an_encoded_envelope_is_immutable() -> None:
    with pytest.raises(AttributeError):
        encoded().body = b""  # type: ignore[misc]


def test_many_threads_build_one_codec() -> None:
    serializer = JsonSerializer(TYPES)
    envelope = Envelope(OrderPlaced("o"), (BusNameStamp("b"),))
    barrier = threading.Barrier(8)
    results: list[Envelope] = []

    def run() -> None:
        barrier.wait()
        results.extend(serializer.decode(serializer.encode(envelope)) for _ in range(50))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [envelope] * 400


# --- which type ---


@pytest.mark.parametrize(
    "name", ["order.placed", "order.created", "App\\Order", "\\App\\Order", f"{__name__}.OrderPlaced"]
)
def test_a_message_is_made_by_its_name_an_alias_or_its_python_path(name: str) -> None:
    assert SERIALIZER.decode(encoded(type=name)).message == OrderPlaced("o")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "antigravity.fly",
        "this.d",
        f"{__name__}.Color",
        "bus.messages.UndecodableMessage",
        "order.placed[]",
        "order.placed ",
        "Order.Placed",
        "\\\\App\\Order",
        "",
        "../../etc/passwd",
    ],
)
def test_a_type_that_is_not_known_is_refused_and_never_imported(name: str) -> None:
    before = set(sys.modules)
    text = refusal(encoded(type=name))
    assert text.startswith(f'A message of type "{name}" cannot be read: no message class here has this name; list ')
    assert set(sys.modules) == before


def test_the_name_of_an_unknown_type_cannot_forge_a_log_line() -> None:
    text = refusal(encoded(type="a\r\nERROR forged " + "x" * 100_000))
    assert "\n" not in text
    assert "\r" not in text


@pytest.mark.parametrize("name", [None, 5, b"order.placed", ["order.placed"], {"a": 1}])
def test_a_type_that_is_no_text_is_refused(name: Any) -> None:
    assert refusal(encoded(type=name)) == 'The message cannot be read: its "type" header is no text.'


@pytest.mark.parametrize("fields", [{}, {"Type": "order.placed"}, {b"type": "order.placed"}, None, 5, []])
def test_a_message_without_type_is_refused(fields: Any) -> None:
    assert refusal(EncodedEnvelope(b"{}", fields)) == 'The message cannot be read: it has no "type" header.'


def test_a_type_that_becomes_known_later_is_read_then() -> None:
    types = MessageTypes()
    serializer = JsonSerializer(types)
    with pytest.raises(DecodingError):
        serializer.decode(encoded())
    types.add(OrderPlaced)
    assert serializer.decode(encoded()).message == OrderPlaced("o")


# --- which bytes ---


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "truncated"),
        (b"0", "Expected `object`, got `int`"),
        (b'"text"', "Expected `object`, got `str`"),
        (b"true", "Expected `object`, got `bool`"),
        (b"null", "missing required field `order_id`"),
        (b"[]", "missing required field `order_id`"),
        (b'[{"order_id":"o"}]', "Expected `object`, got `array`"),
        (b"{", "truncated"),
        (b'{"order_id":"o"}x', "trailing characters"),
        (b'{"order_id":"o"}\0', "trailing characters"),
        (b'{"order_id":"o"} {"order_id":"o"}', "trailing characters"),
        (b"{'order_id':'o'}", "malformed"),
        (b'{"order_id":"o",}', "malformed"),
        (b'{"order_id":"\xff"}', "not valid UTF-8"),
        (b'{"order_id":"\xc0\x80"}', "not valid UTF-8"),
        (b'{"order_id":"\xed\xa0\x80"}', "not valid UTF-8"),
        (b'{"order_id":"\\ud800"}', "truncated"),
        (b'{"order_id":"\\ud800x"}', "malformed|truncated"),
        ('{"order_id":"o"}'.encode("utf-16"), "malformed"),
        ('{"order_id":"o"}'.encode("utf-16-be"), "malformed"),
        ('{"order_id":"o"}'.encode("utf-32"), "malformed"),
        ('{"order_id":"o"}'.encode("utf-8-sig"), "malformed"),
        (b'{"order_id":"o","total":NaN}', "malformed"),
        (b'{"order_id":"o","total":Infinity}', "malformed"),
        (b'{"order_id":"o","unknown":NaN}', "malformed"),
        (b'{"order_id":"o","total":' + b"1" * 5_000 + b"}", "Integer value out of range"),
        (b'{"order_id":"o","total":1e999}', "out of range|Expected `int`"),
        (b'{"order_id":"o","total":"5"}', r"Expected `int`, got `str` - at `\$.total`"),
        (b'{"order_id":"o","at":1700000000}', "Expected `datetime | null`, got `int`"),
        (b'{"order_id":"o","at":"hunter2"}', "Invalid RFC3339 encoded datetime"),
        (b'{"order_id":"o","color":"hunter2"}', r"a value is none of those that its type allows - at `\$.color`"),
        (b'{"order_id":"o","by_name":{"hunter2":"x"}}', r"Expected `int`, got `str` - at `\$.by_name\[...\]`"),
        (b'{"hunter2":"hunter2"}', "missing required field `order_id`"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_without_showing_it(body: bytes, reason: str) -> None:
    text = refusal(encoded(body))
    assert text.startswith('A message of type "order.placed" cannot be read: ')
    with pytest.raises(DecodingError, match=reason):
        SERIALIZER.decode(encoded(body))


@pytest.mark.parametrize("body", ['{"order_id":"o"}', None, 5, bytearray(b"{}"), memoryview(b"{}"), {"order_id": "o"}])
def test_a_body_that_is_not_made_of_bytes_is_refused(body: Any) -> None:
    assert refusal(encoded(body)).endswith("its body is not made of bytes.")


def test_of_a_key_that_comes_twice_the_last_one_counts_as_in_php() -> None:
    assert SERIALIZER.decode(encoded(b'{"order_id":"a","order_id":"b"}')).message == OrderPlaced("b")


def test_an_integer_that_python_can_hold_is_read() -> None:
    number = int("9" * 400)
    assert SERIALIZER.decode(encoded(b'{"order_id":"o","total":%d}' % number)).message == OrderPlaced("o", number)


@pytest.mark.parametrize("name", ERRORS)
def test_whatever_a_message_class_raises_the_message_cannot_be_read_and_nothing_else(name: str) -> None:
    text = refusal(EncodedEnvelope(json.dumps({"text": name}).encode(), {"type": "hostile"}))
    expected = "a" if name == "decoding" else f"its class raised {type(ERRORS[name]).__name__}"
    assert text == f'A message of type "hostile" cannot be read: {expected}.'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"number":"hunter2"}', "pydantic says int_parsing - at `$.number`"),
        (b'{"number":666}', "pydantic says value_error - at `$.number`"),
        (b'{"number":667}', "its class raised SystemExit"),
        (b'{"any_map":{"hunter2":"hunter2"}}', "pydantic says int_parsing - at `$.any_map`"),
        (b'{"number":NaN}', "JSON is malformed: invalid character (byte 10)"),
        (b'{"unknown":1e999}', "Number out of range - at `$[...]`"),
        (b'{"number":' + b"1" * 5_000 + b"}", "Integer value out of range - at `$[...]`"),
        (b'{"unknown":"\xff"}', "the text is not valid UTF-8"),
        (b"[1]", "pydantic says model_type"),
    ],
)
def test_a_pydantic_model_refuses_without_showing_the_value(body: bytes, reason: str) -> None:
    text = refusal(EncodedEnvelope(body, {"type": "pydantic"}))
    assert text == f'A message of type "pydantic" cannot be read: {reason}.'


def test_a_message_that_cannot_be_read_is_never_tried_again() -> None:
    assert issubclass(DecodingError, UnrecoverableError)
    assert issubclass(DecodingError, BusError)


# --- what cannot be decoded is kept ---

FOREIGN = {
    "type": "shop.Unknown",
    "Content-Type": "text/plain",
    "x-foreign": "1",
    "X-Bus-Message-Id": "m-1",
    "X-Bus-Correlation-Id": "c-1",
    f"{SYMFONY}HandledStamp": ' [{"result": {"a": 1}, "handlerName": "h"}]',
    f"{SYMFONY}RedeliveryStamp": '[{"retryCount":"broken"}]',
    f"{SYMFONY}DelayStamp": '[{"delay":1},{"delay":2}]',
}


def test_a_raw_message_has_every_stamp_that_can_still_be_read() -> None:
    raw = SERIALIZER.decode_raw(EncodedEnvelope(b"\xff\x00", FOREIGN), "why")
    assert raw.message == UndecodableMessage(b"\xff\x00", FOREIGN, "why")
    assert raw.last(MessageIdStamp) == MessageIdStamp("m-1")
    assert raw.all(DelayStamp) == (DelayStamp(1), DelayStamp(2))
    assert raw.last(HandledStamp) == HandledStamp({"a": 1}, "h")
    assert raw.last(RedeliveryStamp) is None


def test_a_raw_message_is_written_byte_for_byte() -> None:
    again = SERIALIZER.encode(SERIALIZER.decode_raw(EncodedEnvelope(b"\xff\x00", FOREIGN), "why"))
    assert again == EncodedEnvelope(b"\xff\x00", FOREIGN)
    assert list(again.headers) == list(FOREIGN)


def test_the_body_of_a_raw_message_is_its_own_whatever_is_given() -> None:
    raw = SERIALIZER.decode_raw(EncodedEnvelope(b"\xff", FOREIGN), "why")
    assert SERIALIZER.encode(raw, b"other").body == b"\xff"


def test_stamps_that_a_raw_message_gets_are_written_over_what_it_came_with() -> None:
    raw = SERIALIZER.decode_raw(EncodedEnvelope(b"\xff", FOREIGN), "why")
    details = ErrorDetailsStamp("E", 0, "m")
    again = SERIALIZER.encode(raw.with_(DelayStamp(0), OriginStamp("q"), SentToFailureTransportStamp("async"), details))
    assert again.headers == {
        **FOREIGN,
        f"{SYMFONY}DelayStamp": '[{"delay":1},{"delay":2},{"delay":0}]',
        "X-Bus-Origin": "q",
        f"{SYMFONY}SentToFailureTransportStamp": '[{"originalReceiverName":"async"}]',
        f"{SYMFONY}ErrorDetailsStamp": (
            '[{"exceptionClass":"E","exceptionCode":0,"exceptionMessage":"m","flattenException":null}]'
        ),
    }


def test_a_header_that_cannot_be_read_is_not_lost_when_another_takes_its_place() -> None:
    raw = SERIALIZER.decode_raw(EncodedEnvelope(b"\xff", FOREIGN), "why")
    again = SERIALIZER.encode(raw.with_(RedeliveryStamp(0)))
    name = f"{SYMFONY}RedeliveryStamp"
    assert again.headers[headers.UNREADABLE_PREFIX + name] == '[{"retryCount":"broken"}]'
    assert SERIALIZER.decode_raw(again, "why").last(RedeliveryStamp) == RedeliveryStamp(0)


def test_facts_of_one_delivery_do_not_go_on_with_a_raw_message() -> None:
    raw = SERIALIZER.decode_raw(
        EncodedEnvelope(b"\xff", {"a": "b", "X-Bus-Delay-Rest": "5", "X-Bus-Deliveries": "4"}), ""
    )
    assert SERIALIZER.encode(raw).headers == {"a": "b"}


def test_a_raw_message_is_decoded_once_its_type_is_known() -> None:
    raw = JsonSerializer(MessageTypes()).decode_raw(encoded(b'{"order_id":"o"}', **{"X-Bus-Message-Id": "m"}), "why")
    stored = SERIALIZER.encode(raw.with_(SentToFailureTransportStamp("async")))
    again = SERIALIZER.decode(stored)
    assert again.message == OrderPlaced("o")
    assert again.last(SentToFailureTransportStamp) == SentToFailureTransportStamp("async")
    assert again.last(MessageIdStamp) == MessageIdStamp("m")


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        (None, {}),
        (5, {}),
        ([("a", "b")], {}),
        ({"a": 5, "b": None, "c": {"d": 1}}, {"a": "5", "b": "null", "c": '{"d":1}'}),
        ({5: "a"}, {"5": "a"}),
        ({"a": object()}, {"a": "(object)"}),
        ({"a": "\ud800"}, {"a": "\ud800"}),
    ],
)
def test_headers_of_any_kind_are_kept_as_text(fields: Any, kept: dict[str, str]) -> None:
    raw = SERIALIZER.decode_raw(EncodedEnvelope(b"", fields), "why")
    assert raw.message.headers == kept
    assert SERIALIZER.encode(raw).headers == kept


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (None, b"null"),
        ("text\ud800", b"text\xed\xa0\x80"),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
        (5, b"5"),
    ],
)
def test_a_body_of_any_kind_is_kept_as_bytes(body: Any, kept: bytes) -> None:
    assert SERIALIZER.decode_raw(EncodedEnvelope(body, {}), "why").message.body == kept


# --- anything at all ---

odd_values = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["[]", "[{}]", "{}", "null", '[{"delay":1}]', '[{"busName":"b"}]', "1", "-1", "\ud800", "[" * 300]),
    st.none() | st.integers() | st.binary(max_size=5) | st.lists(st.integers(), max_size=2),
)
odd_names = st.one_of(
    st.sampled_from(list(SERIALIZER._stamps._readers)),
    st.text(max_size=20).map(lambda text: headers.STAMP_PREFIX + text),
    st.text(max_size=20),
    st.integers() | st.none(),
)
types = st.sampled_from(["order.placed", "hostile", "pydantic"]) | odd_values
odd_headers = st.dictionaries(odd_names, odd_values, max_size=5).flatmap(
    lambda fields: types.map(lambda name: {"type": name, **fields})
)
json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["order_id", "total", "color", "at", "by_name", "text", "number", "any_map", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
odd_bodies = st.one_of(
    st.binary(max_size=60),
    json_texts,
    st.tuples(json_texts, st.integers(0, 80), st.binary(max_size=3)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
    ),
    st.none() | st.text(max_size=5),
)


@STEADY
@given(odd_bodies, odd_headers)
def test_whatever_comes_in_is_an_envelope_or_a_decoding_error(body: Any, fields: Any) -> None:
    made = EncodedEnvelope(body, fields)
    try:
        envelope = SERIALIZER.decode(made)
    except DecodingError:
        return
    assert type(envelope.message) in (OrderPlaced, Model)
    assert all(isinstance(each, Stamp) for each in envelope.stamps)
    # What was read can be sent on.
    again = SERIALIZER.encode(envelope)
    assert SERIALIZER.decode(again).message == envelope.message


@STEADY
@given(odd_bodies, odd_headers)
def test_whatever_comes_in_can_be_kept_and_sent_on(body: Any, fields: Any) -> None:
    raw = SERIALIZER.decode_raw(EncodedEnvelope(body, fields), "why")
    again = SERIALIZER.encode(raw.with_(SentToFailureTransportStamp("async"), ErrorDetailsStamp("E", 0, "m")))
    if isinstance(body, bytes):
        assert again.body == body
    assert isinstance(again.headers, Mapping)
    for name, value in fields.items():
        if isinstance(name, str) and isinstance(value, str) and name not in headers.OF_ONE_DELIVERY:
            added = name in (f"{SYMFONY}SentToFailureTransportStamp", f"{SYMFONY}ErrorDetailsStamp")
            assert again.headers[name] == value or added or again.headers[headers.UNREADABLE_PREFIX + name] == value
