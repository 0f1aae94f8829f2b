"""What a real Symfony Messenger wrote and read (tests/wire/serializer.json), against what we write and read.

Every deliberate difference stands in a table here, with its reason.
"""

from __future__ import annotations

import base64
import inspect
import json
import re
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bus import headers, stamps
from bus.envelope import Envelope
from bus.errors import DecodingError
from bus.messages import MessageTypes, message
from bus.serializer import EncodedEnvelope, JsonSerializer
from bus.stamps import NonSendableStamp, Stamp, UnknownStamps, stamp

CAPTURED = json.loads((Path(__file__).parents[1] / "wire" / "serializer.json").read_text("utf-8"))
CASES = {case["id"]: case for case in CAPTURED["cases"]}
HAND_MADE = {case["id"]: case for case in CAPTURED["decode_hand_made"]}

FLATTENED = "Symfony\\Component\\ErrorHandler\\Exception\\FlattenException"
HANDLED = headers.STAMP_PREFIX + headers.SYMFONY_STAMPS + "HandledStamp"
ROUTER_CONTEXT = headers.STAMP_PREFIX + headers.SYMFONY_STAMPS + "RouterContextStamp"
ERROR_DETAILS = headers.STAMP_PREFIX + headers.SYMFONY_STAMPS + "ErrorDetailsStamp"


@message("App\\Message\\OrderItem", rename="camel")
@dataclass(frozen=True)
class OrderItem:
    sku: str
    quantity: int
    unit_price: float


@message("App\\Message\\OrderPlaced", rename="camel")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    total: float
    items: list[OrderItem]
    placed_at: datetime


@message("App\\Message\\SendEmail", rename="camel")
@dataclass(frozen=True)
class SendEmail:
    to: str
    subject: str
    body: str | None = None
    tags: list[str] = field(default_factory=list)
    priority: int | None = None
    urgent: bool = False


@message("App\\Message\\Ping", rename="camel")
@dataclass(frozen=True)
class Ping:
    pass


@stamp("App\\Stamp\\TraceStamp")
@dataclass(frozen=True, slots=True)
class TraceStamp(Stamp):
    trace_id: str
    hop: int = 0


@dataclass(frozen=True, slots=True)
class LocalOnlyStamp(NonSendableStamp):
    note: str = ""


MESSAGES: dict[str, type] = {f"App\\Message\\{cls.__name__}": cls for cls in (OrderItem, OrderPlaced, SendEmail, Ping)}
SERIALIZER = JsonSerializer(MessageTypes(MESSAGES.values()), [TraceStamp])


# --- between the notation of the captures and ours ---


def to_python(value: Any, cls: type | None = None) -> Any:
    if isinstance(value, list):
        return [to_python(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "@datetime" in value:
        return datetime.fromisoformat(value["@datetime"])
    cls = cls or MESSAGES.get(value.get("@class", ""))
    if cls is None:
        return {key: to_python(each) for key, each in value.items()}
    names = {camel(each): each for each in inspect.signature(cls).parameters}
    return cls(**{names[key]: to_python(each) for key, each in value.items() if key in names})


def to_captured(value: Any, *, nested: bool = False) -> Any:
    if isinstance(value, datetime):
        text = value.strftime("%Y-%m-%dT%H:%M:%S.%f").zfill(26)
        return {"@datetime": text + offset_of(value), "@class": "DateTimeImmutable"}
    if isinstance(value, list):
        return [to_captured(each, nested=True) for each in value]
    if type(value) not in MESSAGES.values():
        return value
    captured = {camel(each.name): to_captured(getattr(value, each.name)) for each in fields(value)}
    return {"@class": f"App\\Message\\{type(value).__name__}", **captured} if nested else captured


def offset_of(at: datetime) -> str:
    minutes = int((at.utcoffset() or timedelta(0)).total_seconds() // 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def camel(name: str) -> str:
    return re.sub("_(.)", lambda match: match[1].upper(), name)


def stamp_class(php_class: str) -> type:
    short = php_class.rpartition("\\")[2]
    return {"TraceStamp": TraceStamp, "LocalOnlyStamp": LocalOnlyStamp}.get(short) or getattr(stamps, short)


def stamps_to_python(captured: dict[str, list[dict[str, Any]]], wire: dict[str, str]) -> list[Stamp]:
    made: list[Stamp] = []
    for php_class, objects in captured.items():
        sent = json.loads(wire.get(headers.STAMP_PREFIX + php_class, "[]"))
        for position, values in enumerate(objects):
            # The captures show a FlattenException as PHP's object; ours is the JSON that it travels as.
            shown = values.get("flattenException")
            if isinstance(shown, dict):
                values = {**values, "flattenException": sent[position]["flattenException"]}
            made.append(ONE_PROCESS_ONLY.get(php_class) or to_python(values, stamp_class(php_class)))
    return made


SYMFONY = headers.SYMFONY_STAMPS
ONE_PROCESS_ONLY: dict[str, Stamp] = {
    SYMFONY + "SentStamp": stamps.SentStamp("async"),
    SYMFONY + "DispatchAfterCurrentBusStamp": LocalOnlyStamp("our stamp of this name has the same fate"),
}


def to_envelope(case: dict[str, Any]) -> Envelope:
    envelope = case["envelope"]
    made = to_python(envelope["fields"], MESSAGES[envelope["class"]])
    return Envelope(made, tuple(stamps_to_python(envelope["stamps"], case["kernel"]["encoded"]["headers"])))


def assert_same(decoded: Envelope, captured: dict[str, Any], wire: dict[str, str]) -> None:
    assert type(decoded.message) is MESSAGES[captured["class"]]
    assert to_captured(decoded.message) == captured["fields"]
    assert list(decoded.stamps) == stamps_to_python(captured["stamps"], wire)


# --- encoding ---

DIFFERENT_BODIES = {
    # Raw UTF-8 and unescaped slashes are the same JSON and shorter; a float stays recognisable as one, which Symfony
    # reads alike; microseconds are kept, which Symfony reads too.
    "order": '{"orderId":"A-1","total":100.0,"items":[{"sku":"é/1","quantity":2,"unitPrice":9.99},'
    '{"sku":"plain","quantity":1,"unitPrice":80.02}],"placedAt":"2024-05-06T07:08:09.123456+02:00"}',
    # "Z" is RFC 3339 for "+00:00".
    "order_zero_items": '{"orderId":"A-2","total":0.0,"items":[],"placedAt":"2024-12-31T23:59:59Z"}',
    # Another spelling of the same numbers.
    "order_floats": '{"orderId":"A-3","total":1e25,"items":[{"sku":"tiny","quantity":9223372036854775807,'
    '"unitPrice":1e-7},{"sku":"third","quantity":-1,"unitPrice":0.30000000000000004}],'
    '"placedAt":"0001-01-01T00:00:00Z"}',
    # Raw UTF-8.
    "email": '{"to":"a@example.org","subject":"Line1\\nLine2 😀 <b>&\'\\"","body":null,"tags":["x","y"],'
    '"priority":5,"urgent":true}',
    # Serialization groups are Symfony's; here a message is always written whole.
    "stamp_serializer_context": '{"to":"","subject":"0","body":null,"tags":[],"priority":null,"urgent":false}',
}

DIFFERENT_HEADERS = {
    # What a handler returned stays in the process: it may be anything, and nobody reads it from the wire.
    "stamp_handled": {HANDLED: '[{"result":null,"handlerName":"Closure@main"}]'},
    "stamp_handled_array_result": {HANDLED: '[{"result":null,"handlerName":"App\\\\H::__invoke"}]'},
    "stamp_handled_object_result": {HANDLED: '[{"result":null,"handlerName":"App\\\\H::__invoke"}]'},
    # An unescaped slash is the same JSON.
    "stamp_router_context": {
        ROUTER_CONTEXT: CASES["stamp_router_context"]["kernel"]["encoded"]["headers"][ROUTER_CONTEXT].replace(
            "\\/", "/"
        )
    },
    "stamp_error_details": {
        ERROR_DETAILS: CASES["stamp_error_details"]["kernel"]["encoded"]["headers"][ERROR_DETAILS].replace("\\/", "/")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_what_we_write_is_what_symfony_writes(name: str) -> None:
    captured = CASES[name]["kernel"]["encoded"]

    encoded = SERIALIZER.encode(to_envelope(CASES[name]))

    assert encoded.body.decode() == DIFFERENT_BODIES.get(name, captured["body"])
    assert encoded.headers == captured["headers"] | DIFFERENT_HEADERS.get(name, {})
    assert list(encoded.headers) == list(captured["headers"])


def test_the_tables_of_differences_name_only_what_differs() -> None:
    for name, body in DIFFERENT_BODIES.items():
        assert body != CASES[name]["kernel"]["encoded"]["body"]
    for name, changed in DIFFERENT_HEADERS.items():
        assert changed.items().isdisjoint(CASES[name]["kernel"]["encoded"]["headers"].items())


# --- decoding what Symfony wrote ---

REFUSED_OF_SYMFONY = {
    # Symfony leaves the required properties uninitialised; Python has no such state.
    "stamp_serializer_context": "missing required field `to`",
}


@pytest.mark.parametrize("name", CASES.keys() - REFUSED_OF_SYMFONY.keys())
def test_we_read_what_symfony_wrote_as_symfony_reads_it(name: str) -> None:
    wire, captured = CASES[name]["kernel"]["encoded"], CASES[name]["kernel"]["decoded"]

    decoded = SERIALIZER.decode(EncodedEnvelope(wire["body"].encode(), wire["headers"]))

    assert_same(decoded, captured, wire["headers"])


@pytest.mark.parametrize("name", REFUSED_OF_SYMFONY)
def test_an_object_that_only_php_could_leave_half_made_is_refused(name: str) -> None:
    wire = CASES[name]["kernel"]["encoded"]
    with pytest.raises(DecodingError, match=REFUSED_OF_SYMFONY[name]):
        SERIALIZER.decode(EncodedEnvelope(wire["body"].encode(), wire["headers"]))


# --- decoding what was made by hand ---

STRICTER = {
    # As above: a required field that is missing, or no object at all.
    "missing_typed_property": "missing required field `subject`",
    "body_json_string": "Expected `object`, got `str`",
}

UNDERSTOOD_OTHERWISE = {
    # PHP takes its default zone; a time without zone stays one.
    "date_naive": Envelope(OrderPlaced("A", 1.0, [], datetime.fromisoformat("2024-01-02T03:04:05"))),
    # Symfony forgets headers that it does not know; a retry here sends them on.
    "unknown_header_ignored": Envelope(
        SendEmail("x", "y"), (UnknownStamps({"x-python": "1", "X-Message-Other": "z"}),)
    ),
    "stamp_header_lower_case": Envelope(
        SendEmail("x", "y"),
        (UnknownStamps({f"x-message-stamp-{SYMFONY}BusNameStamp": '[{"busName":"b"}]'}),),
    ),
    # Symfony refuses the message for a stamp of a class that it does not know; here it is kept as it came.
    "stamp_unknown_class": Envelope(
        SendEmail("x", "y"), (UnknownStamps({headers.STAMP_PREFIX + "App\\Stamp\\Nope": '[{"a":1}]'}),)
    ),
    "stamp_unknown_class_empty_list": Envelope(
        SendEmail("x", "y"), (UnknownStamps({headers.STAMP_PREFIX + "App\\Stamp\\Nope": "[]"}),)
    ),
    # Symfony makes a "stamp" of any class; here it is a stamp that nobody knows.
    "stamp_class_not_a_stamp": Envelope(
        SendEmail("x", "y"), (UnknownStamps({headers.STAMP_PREFIX + "App\\Message\\Ping": "[{}]"}),)
    ),
    # Symfony believes it; such a stamp belongs to one process and is never taken from the wire.
    "stamp_non_sendable_on_wire": Envelope(SendEmail("x", "y")),
    # Symfony puts the time of reading in the place of a missing one.
    "stamp_redelivery_minimal": Envelope(SendEmail("x", "y"), (stamps.RedeliveryStamp(2, None),)),
    # A TypeError ends Symfony's worker; here only the trace, which is not whole, is left out.
    "stamp_error_details_flatten_partial": Envelope(
        SendEmail("x", "y"), (stamps.ErrorDetailsStamp("ValueError", 0, "m", None),)
    ),
}


def hand_made(name: str) -> EncodedEnvelope:
    case = HAND_MADE[name]
    body = base64.b64decode(case["body_base64"]) if "body_base64" in case else case["body"].encode()
    return EncodedEnvelope(body, case["headers"])


ACCEPTED = [name for name, case in HAND_MADE.items() if "decoded" in case["kernel"]]
SAME = [name for name in ACCEPTED if name not in STRICTER and name not in UNDERSTOOD_OTHERWISE]
REFUSED = [name for name in HAND_MADE if name not in ACCEPTED and name not in UNDERSTOOD_OTHERWISE]


def test_every_hand_made_case_is_tested() -> None:
    tested = [*SAME, *REFUSED, *STRICTER, *UNDERSTOOD_OTHERWISE]
    assert sorted(tested) == sorted(HAND_MADE)
    assert set(STRICTER) <= set(ACCEPTED)


@pytest.mark.parametrize("name", SAME)
def test_we_accept_what_symfony_accepts(name: str) -> None:
    assert_same(SERIALIZER.decode(hand_made(name)), HAND_MADE[name]["kernel"]["decoded"], HAND_MADE[name]["headers"])


@pytest.mark.parametrize("name", REFUSED)
def test_we_refuse_what_symfony_refuses(name: str) -> None:
    with pytest.raises(DecodingError):
        SERIALIZER.decode(hand_made(name))


@pytest.mark.parametrize("name", STRICTER)
def test_we_refuse_what_only_symfony_accepts(name: str) -> None:
    with pytest.raises(DecodingError, match=STRICTER[name]):
        SERIALIZER.decode(hand_made(name))


@pytest.mark.parametrize("name", UNDERSTOOD_OTHERWISE)
def test_we_understand_some_of_it_otherwise(name: str) -> None:
    assert SERIALIZER.decode(hand_made(name)) == UNDERSTOOD_OTHERWISE[name]
