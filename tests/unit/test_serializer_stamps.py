"""Stamps as headers, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus import headers
from bus.envelope import Envelope
from bus.errors import ConfigurationError, DecodingError, EncodingError
from bus.messages import MessageTypes, message
from bus.serializer import EncodedEnvelope, JsonSerializer
from bus.stamps import (
    BusNameStamp,
    CausationStamp,
    ConsumedByWorkerStamp,
    CorrelationStamp,
    DelayStamp,
    ErrorDetailsStamp,
    HandledStamp,
    MessageIdStamp,
    NonSendableStamp,
    OriginStamp,
    PartitionKeyStamp,
    PostponedStamp,
    PriorityStamp,
    ReceivedStamp,
    RedeliveryStamp,
    RouterContextStamp,
    SentToFailureTransportStamp,
    SerializerStamp,
    Stamp,
    TransportMessageIdStamp,
    UnknownStamps,
    ValidationStamp,
    stamp,
)

# The same examples in each run, however slow the machine is.
STEADY = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SYMFONY = headers.STAMP_PREFIX + headers.SYMFONY_STAMPS
WHOLE_FLATTENED = {
    "message": "m",
    "code": "HY000",
    "headers": [],
    "class": "ValueError",
    "file": "x.py",
    "line": 3,
    "previous": None,
    "status": 500,
    "status_text": "Internal Server Error",
    "trace": [],
    "trace_as_string": "",
}


@message("ping")
@dataclass(frozen=True)
class Ping:
    pass


@stamp("tenant")
@dataclass(frozen=True, slots=True)
class TenantStamp(Stamp):
    tenant_id: str
    plan: tuple[int, ...] = ()


@stamp("App\\Stamp\\TraceStamp")
@dataclass(frozen=True, slots=True)
class TraceStamp(Stamp):
    trace_id: str


@dataclass(frozen=True, slots=True)
class NamelessStamp(Stamp):
    text: str = ""


@dataclass(frozen=True, slots=True)
class LocalStamp(NonSendableStamp):
    anything: Any = None


TYPES = MessageTypes([Ping])
SERIALIZER = JsonSerializer(TYPES, [TenantStamp, TraceStamp])


def written(*stamps: Stamp) -> dict[str, str]:
    return dict(SERIALIZER.encode(Envelope(Ping(), stamps)).headers)


def read(**fields: str) -> tuple[Stamp, ...]:
    return SERIALIZER.decode(EncodedEnvelope(b"[]", {"type": "ping", **fields})).stamps


def out_and_back(*stamps: Stamp) -> tuple[Stamp, ...]:
    return SERIALIZER.decode(SERIALIZER.encode(Envelope(Ping(), stamps))).stamps


# --- ours ---


def test_our_stamps_are_plain_headers() -> None:
    assert written(
        MessageIdStamp("m-1"),
        CorrelationStamp("c-1"),
        CausationStamp("c-2"),
        PartitionKeyStamp("kéy"),
        PriorityStamp(-3),
        OriginStamp("orders"),
        PostponedStamp(2),
    ) == {
        "type": "ping",
        "X-Bus-Message-Id": "m-1",
        "X-Bus-Correlation-Id": "c-1",
        "X-Bus-Causation-Id": "c-2",
        "X-Bus-Partition-Key": "kéy",
        "X-Bus-Priority": "-3",
        "X-Bus-Origin": "orders",
        "X-Bus-Postponed": "2",
        "Content-Type": "application/json",
    }


def test_of_a_stamp_that_is_there_twice_the_last_one_counts_where_there_is_room_for_one() -> None:
    assert written(PriorityStamp(1), PriorityStamp(2))["X-Bus-Priority"] == "2"


def test_the_root_of_a_conversation_travels_with_its_own_id_as_correlation() -> None:
    assert written(MessageIdStamp("m-1"))["X-Bus-Correlation-Id"] == "m-1"
    assert out_and_back(MessageIdStamp("m-1")) == (MessageIdStamp("m-1"), CorrelationStamp("m-1"))


def test_a_message_without_an_id_has_no_correlation_either() -> None:
    assert "X-Bus-Correlation-Id" not in written()


@pytest.mark.parametrize(
    "bad",
    [
        MessageIdStamp(""),
        MessageIdStamp("x" * 256),
        MessageIdStamp("a\r\nX-Admin: 1"),
        MessageIdStamp(7),  # type: ignore[arg-type]
        CorrelationStamp("\ud800"),
        PartitionKeyStamp("a\0"),
        PartitionKeyStamp("x" * 1025),
        OriginStamp(None),  # type: ignore[arg-type]
        PriorityStamp("5"),  # type: ignore[arg-type]
        PriorityStamp(priority=True),
        PriorityStamp(2**31),
        PostponedStamp(-1),
        DelayStamp(1.5),  # type: ignore[arg-type]
        DelayStamp(10**15),
        RedeliveryStamp(-1),
        RedeliveryStamp(2**31),
        BusNameStamp(None),  # type: ignore[arg-type]
        BusNameStamp(["a"]),  # type: ignore[arg-type]
        BusNameStamp("\ud800"),
        ErrorDetailsStamp(None, 0, ""),  # type: ignore[arg-type]
        HandledStamp(None, 5),  # type: ignore[arg-type]
        SerializerStamp({"a": object()}),
        SentToFailureTransportStamp(5),  # type: ignore[arg-type]
        TenantStamp(5),  # type: ignore[arg-type]
        TenantStamp("a", ("x",)),  # type: ignore[arg-type]
    ],
)
def test_a_stamp_whose_value_nobody_could_read_is_refused_by_name(bad: Stamp) -> None:
    with pytest.raises(EncodingError, match=f'The stamp "{type(bad).__name__}" cannot be written: '):
        written(bad)


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        ("X-Bus-Priority", "99999999999", PriorityStamp(2**31 - 1)),
        ("X-Bus-Priority", "-99999999999", PriorityStamp(-(2**31) + 1)),
        ("X-Bus-Postponed", "-1000000000", PostponedStamp(0)),
        ("X-Bus-Postponed", "99999999999", PostponedStamp(2**31 - 1)),
        (f"{SYMFONY}RedeliveryStamp", '[{"retryCount":-1000000000}]', RedeliveryStamp(0)),
        (f"{SYMFONY}RedeliveryStamp", f'[{{"retryCount":1{"0" * 100}}}]', RedeliveryStamp(2**31 - 1)),
        (f"{SYMFONY}DelayStamp", '[{"delay":-5}]', DelayStamp(0)),
        (f"{SYMFONY}DelayStamp", '[{"delay":99999999999999999}]', DelayStamp(100 * 365 * 24 * 3600 * 1000)),
    ],
)
def test_a_number_out_of_range_is_clamped(header: str, value: str, expected: Stamp) -> None:
    assert read(**{header: value}) == (expected,)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Bus-Message-Id", ""),
        ("X-Bus-Message-Id", "x" * 256),
        ("X-Bus-Message-Id", "a\nERROR forged line"),
        ("X-Bus-Message-Id", "\ud800"),
        ("X-Bus-Message-Id", 5),
        ("X-Bus-Message-Id", "a\u2028b"),
        ("X-Bus-Correlation-Id", "\x1b[31m"),
        ("X-Bus-Priority", ""),
        ("X-Bus-Priority", "high"),
        ("X-Bus-Priority", "1.5"),
        ("X-Bus-Priority", "\uff11"),
        ("X-Bus-Priority", "1" * 5_000),
        ("X-Bus-Priority", 5),
        ("X-Bus-Postponed", "1_0"),
        ("X-Bus-Postponed", " 1"),
        (f"{SYMFONY}RedeliveryStamp", '[{"retryCount":"2"}]'),
        (f"{SYMFONY}RedeliveryStamp", '[{"retryCount":2.0}]'),
        (f"{SYMFONY}RedeliveryStamp", '[{"retryCount":true}]'),
        (f"{SYMFONY}RedeliveryStamp", '[{"retryCount":[2]}]'),
        (f"{SYMFONY}RedeliveryStamp", '[{"retryCount":NaN}]'),
        (f"{SYMFONY}RedeliveryStamp", '[{"retryCount":1e999}]'),
        (f"{SYMFONY}RedeliveryStamp", "[{}]"),
        (f"{SYMFONY}RedeliveryStamp", '[{"retryCount":1,"redeliveredAt":"yesterday"}]'),
        (f"{SYMFONY}RedeliveryStamp", f'[{{"retryCount":{"1" * 5_000}}}]'),
        (f"{SYMFONY}DelayStamp", '[{"delay":null}]'),
        (f"{SYMFONY}DelayStamp", "{}"),
        (f"{SYMFONY}DelayStamp", "null"),
        (f"{SYMFONY}DelayStamp", "[null]"),
        (f"{SYMFONY}DelayStamp", "[[5]]"),
        (f"{SYMFONY}DelayStamp", ""),
        (f"{SYMFONY}DelayStamp", "[{"),
        (f"{SYMFONY}DelayStamp", '[{"delay":1}] ' + "x"),
        (f"{SYMFONY}DelayStamp", "\ufeff[]"),
        (f"{SYMFONY}BusNameStamp", '[{"busName":1}]'),
        (f"{SYMFONY}BusNameStamp", '[{"busName":"\ud800"}]'),
        (f"{SYMFONY}BusNameStamp", '[{"busName":"\\ud800"}]'),
        (f"{SYMFONY}BusNameStamp", {"busName": "b"}),
        (f"{SYMFONY}BusNameStamp", None),
        (f"{SYMFONY}TransportMessageIdStamp", '[{"id":1.5}]'),
        (f"{SYMFONY}HandledStamp", '[{"handlerName":null}]'),
        ("X-Bus-Stamp-tenant", '[{"tenant_id":5}]'),
    ],
)
def test_a_known_header_that_makes_no_sense_is_refused_by_name(header: str, value: Any) -> None:
    with pytest.raises(DecodingError) as caught:
        read(**{header: value})
    text = str(caught.value)
    assert text.startswith(f'A message of type "ping" cannot be read: its header "{header}" ')
    assert "forged" not in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("header", "value"),
    [("x-foreign", 5), ("x-foreign", None), ("x-foreign", "\udfff"), ("x-\udfff", "a"), (b"x", "a")],
)
def test_a_foreign_header_that_is_no_text_is_refused(header: Any, value: Any) -> None:
    with pytest.raises(DecodingError, match='"ping" cannot be read: one of its headers is no text'):
        SERIALIZER.decode(EncodedEnvelope(b"[]", {"type": "ping", header: value}))


# --- Symfony's ---


def test_symfonys_stamps_are_lists_in_one_header_per_class_between_type_and_content_type() -> None:
    fields = written(DelayStamp(1), TenantStamp("t"), BusNameStamp("b"), DelayStamp(2), BusNameStamp("é/"))
    assert list(fields.items()) == [
        ("type", "ping"),
        (f"{SYMFONY}DelayStamp", '[{"delay":1},{"delay":2}]'),
        ("X-Bus-Stamp-tenant", '[{"tenant_id":"t","plan":[]}]'),
        (f"{SYMFONY}BusNameStamp", '[{"busName":"b"},{"busName":"é/"}]'),
        ("Content-Type", "application/json"),
    ]


def test_a_redelivery_is_written_in_the_words_of_symfony_5_and_read_in_those_of_7_too() -> None:
    at = datetime(2024, 5, 6, 7, 8, 9, 999_999, timezone(timedelta(hours=2)))
    assert written(RedeliveryStamp(2, at))[f"{SYMFONY}RedeliveryStamp"] == (
        '[{"retryCount":2,"exceptionMessage":null,"flattenException":null,"redeliveredAt":"2024-05-06T07:08:09+02:00"}]'
    )
    assert read(**{f"{SYMFONY}RedeliveryStamp": '[{"retryCount":2,"redeliveredAt":"2024-05-06T07:08:09+02:00"}]'}) == (
        RedeliveryStamp(2, at.replace(microsecond=0)),
    )


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2024, 5, 6, tzinfo=UTC), ',"redeliveredAt":"2024-05-06T00:00:00+00:00"}]'),
        (datetime.fromisoformat("2024-05-06"), ',"redeliveredAt":"2024-05-06T00:00:00+00:00"}]'),
        (None, '"flattenException":null}]'),
    ],
)
def test_the_time_of_a_redelivery_is_always_with_its_zone(at: datetime | None, expected: str) -> None:
    assert written(RedeliveryStamp(0, at))[f"{SYMFONY}RedeliveryStamp"].endswith(expected)


def test_a_negative_delay_is_written_as_none() -> None:
    assert written(DelayStamp(-5))[f"{SYMFONY}DelayStamp"] == '[{"delay":0}]'


def test_what_a_handler_returned_stays_in_the_process() -> None:
    fields = written(HandledStamp(object(), "shop.send"), HandledStamp({"secret": 1}, "shop.count"))
    assert fields[f"{SYMFONY}HandledStamp"] == (
        '[{"result":null,"handlerName":"shop.send"},{"result":null,"handlerName":"shop.count"}]'
    )


@pytest.mark.parametrize(
    "flattened",
    [
        {},
        {"message": "m", "code": 0, "class": "ValueError"},
        {**WHOLE_FLATTENED, "file": None},
        {**WHOLE_FLATTENED, "line": "3"},
        {**WHOLE_FLATTENED, "previous": {"message": "half"}},
        {**WHOLE_FLATTENED, "trace": "Traceback"},
        {**WHOLE_FLATTENED, "trace": ["line"]},
        {**WHOLE_FLATTENED, "trace_as_string": None},
    ],
)
def test_the_full_form_of_an_error_is_left_out_where_it_would_end_symfonys_worker(flattened: dict[str, object]) -> None:
    half = ErrorDetailsStamp("ValueError", 0, "m", flattened)
    without = ErrorDetailsStamp("ValueError", 0, "m", None)
    assert written(half) == written(without)
    sent = {"exceptionClass": "ValueError", "exceptionCode": 0, "exceptionMessage": "m", "flattenException": flattened}
    assert read(**{f"{SYMFONY}ErrorDetailsStamp": json.dumps([sent])}) == (without,)


def test_the_full_form_of_an_error_is_kept_where_it_is_whole() -> None:
    whole = ErrorDetailsStamp("ValueError", "HY000", "m", {**WHOLE_FLATTENED, "previous": WHOLE_FLATTENED})
    assert out_and_back(whole) == (whole,)


@pytest.mark.parametrize("make", [RedeliveryStamp, DelayStamp, TransportMessageIdStamp])
def test_of_stamps_that_each_retry_adds_the_first_and_the_last_nine_travel(make: Any) -> None:
    many = [make(number) for number in range(1, 15)]
    expected = [make(1), *(make(number) for number in range(6, 15))]
    assert list(out_and_back(BusNameStamp("b"), *many)) == [BusNameStamp("b"), *expected]


def test_ten_of_them_all_travel() -> None:
    ten = tuple(RedeliveryStamp(number) for number in range(10))
    assert out_and_back(*ten, BusNameStamp("b")) == (*ten, BusNameStamp("b"))


def test_no_other_stamp_is_left_out() -> None:
    many = tuple(TenantStamp(str(number)) for number in range(30))
    assert out_and_back(*many) == many


def test_an_empty_map_of_php_is_an_empty_map() -> None:
    assert read(**{f"{SYMFONY}SerializerStamp": '[{"context":[]}]'}) == (SerializerStamp({}),)


@pytest.mark.parametrize(
    "name",
    [
        "ReceivedStamp",
        "ConsumedByWorkerStamp",
        "AckStamp",
        "SentStamp",
        "DispatchAfterCurrentBusStamp",
        "NoAutoAckStamp",
        "HandlerArgumentsStamp",
        "SerializedMessageStamp",
        "receivedSTAMP",
    ],
)
def test_a_stamp_of_one_process_is_never_taken_from_the_wire(name: str) -> None:
    assert read(**{SYMFONY + name: '[{"transportName":"spoofed"}]'}) == ()
    bridge = f"{headers.STAMP_PREFIX}Symfony\\Component\\Messenger\\Bridge\\Amqp\\Transport\\AmqpReceivedStamp"
    assert read(**{bridge: "[{}]"}) == ()


def test_a_stamp_of_one_process_is_never_written() -> None:
    assert written(ReceivedStamp("async"), ConsumedByWorkerStamp(), LocalStamp(object())) == written()


# --- users' ---


def test_a_stamp_with_a_name_of_its_own_comes_back() -> None:
    assert out_and_back(TenantStamp("a", (1,)), TenantStamp("b")) == (TenantStamp("a", (1,)), TenantStamp("b"))


def test_a_stamp_that_php_has_too_travels_as_symfony_writes_it() -> None:
    assert written(TraceStamp("t"))[headers.STAMP_PREFIX + "App\\Stamp\\TraceStamp"] == '[{"traceId":"t"}]'
    assert out_and_back(TraceStamp("t")) == (TraceStamp("t"),)


def test_a_stamp_without_a_name_is_refused_with_what_to_do() -> None:
    with pytest.raises(EncodingError) as caught:
        written(NamelessStamp())
    assert str(caught.value) == (
        f'The stamp "{__name__}.NamelessStamp" has no name on the wire: give it one with @stamp("name"), or let it '
        "inherit from NonSendableStamp to keep it in this process."
    )


def test_a_name_is_not_inherited() -> None:
    child = type("ChildStamp", (TenantStamp,), {})
    with pytest.raises(EncodingError, match=r'ChildStamp" has no name on the wire'):
        written(child("a"))


def test_a_stamp_that_only_the_sender_knows_is_kept_by_the_receiver() -> None:
    sent = JsonSerializer(TYPES).encode(Envelope(Ping(), (TenantStamp("t"),)))
    received = JsonSerializer(TYPES).decode(sent)
    assert received.stamps == (UnknownStamps({"X-Bus-Stamp-tenant": '[{"tenant_id":"t","plan":[]}]'}),)
    assert SERIALIZER.decode(JsonSerializer(TYPES).encode(received)).stamps == (TenantStamp("t"),)


def test_two_stamps_with_one_name_are_refused() -> None:
    other = stamp("tenant")(type("OtherStamp", (Stamp,), {}))
    with pytest.raises(ConfigurationError, match=r'OtherStamp" cannot have the header "X-Bus-Stamp-tenant"'):
        JsonSerializer(TYPES, [TenantStamp, other])


def test_one_stamp_named_twice_is_one_stamp() -> None:
    JsonSerializer(TYPES, [TenantStamp, TenantStamp])


@pytest.mark.parametrize("name", ["DelayStamp", "ReceivedStamp"])
def test_a_stamp_cannot_take_the_place_of_symfonys(name: str) -> None:
    taken = stamp(headers.SYMFONY_STAMPS + name)(type("MyStamp", (Stamp,), {}))
    with pytest.raises(ConfigurationError, match="choose another name"):
        JsonSerializer(TYPES, [taken])


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError, RecursionError])
def test_a_stamp_class_that_raises_is_a_message_that_cannot_be_read(error: type[BaseException]) -> None:
    @stamp("hostile")
    @dataclass
    class HostileStamp(Stamp):
        text: str

        def __post_init__(self) -> None:
            raise error("secret")

    serializer = JsonSerializer(TYPES, [HostileStamp])
    encoded = EncodedEnvelope(b"[]", {"type": "ping", "X-Bus-Stamp-hostile": '[{"text":"a"}]'})
    with pytest.raises(DecodingError, match='its header "X-Bus-Stamp-hostile" cannot be read') as caught:
        serializer.decode(encoded)
    assert "secret" not in str(caught.value)
    assert serializer.decode_raw(encoded, "why").stamps == ()


# --- foreign ---


def test_headers_that_nobody_knows_are_kept_and_sent_again() -> None:
    foreign = {
        headers.STAMP_PREFIX + "App\\Stamp\\Unknown": "not even [ JSON",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "x-anything": "1\n2",
        "X-Bus-Stamp-unknown": "[{}]",
        "X-Bus-Of-A-Later-Version": "1",
        "": "empty name",
    }
    stamps = read(**foreign, **{"X-Bus-Message-Id": "m"})
    assert stamps == (MessageIdStamp("m"), UnknownStamps(foreign))
    assert foreign.items() <= written(*stamps).items()


def test_what_belongs_to_one_delivery_is_not_sent_again() -> None:
    assert read(**{"X-Bus-Deliveries": "3", "X-Bus-Delay-Rest": "5", "x-retry-count": "1"}) == ()


def test_foreign_headers_cannot_replace_what_is_known() -> None:
    forged = {"type": "other", "Content-Type": "x", "X-Bus-Message-Id": "f", f"{SYMFONY}DelayStamp": "junk", "x": "1"}
    fields = written(UnknownStamps(forged), DelayStamp(1), MessageIdStamp("m"))
    assert fields["type"] == "ping"
    assert fields["X-Bus-Message-Id"] == "m"
    assert fields[f"{SYMFONY}DelayStamp"] == '[{"delay":1}]'
    assert fields["Content-Type"] == "application/json"
    assert fields["x"] == "1"


# --- any stamp ---

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
json_maps = st.dictionaries(texts, st.none() | texts | st.integers(-(2**63), 2**63 - 1) | st.lists(texts, max_size=2))
listed: st.SearchStrategy[Stamp] = st.one_of(
    st.builds(BusNameStamp, texts),
    st.builds(DelayStamp, st.integers(0, 10**12)),
    st.builds(
        RedeliveryStamp,
        st.integers(0, 2**31 - 1),
        st.none() | st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)),
    ),
    st.builds(
        ErrorDetailsStamp, texts, st.integers(-(2**31), 2**31) | texts, texts, st.just(WHOLE_FLATTENED) | st.none()
    ),
    st.builds(SentToFailureTransportStamp, texts),
    st.builds(TransportMessageIdStamp, texts | st.integers(0, 2**63 - 1)),
    st.builds(HandledStamp, st.none(), texts),
    st.builds(SerializerStamp, json_maps),
    st.builds(ValidationStamp, st.lists(texts, max_size=3)),
    st.builds(
        RouterContextStamp, texts, texts, texts, texts, st.integers(0, 65535), st.integers(0, 65535), texts, texts
    ),
    st.builds(TenantStamp, texts, st.lists(st.integers(-9, 9), max_size=3).map(tuple)),
    st.builds(TraceStamp, texts),
)
single: st.SearchStrategy[Sequence[Stamp]] = st.tuples(
    st.builds(MessageIdStamp, plain),
    st.builds(CorrelationStamp, plain),
    st.builds(CausationStamp, plain),
    st.builds(PartitionKeyStamp, plain | st.just("")),
    st.builds(OriginStamp, plain),
    st.builds(PriorityStamp, st.integers(-(2**31) + 1, 2**31 - 1)),
    st.builds(PostponedStamp, st.integers(0, 2**31 - 1)),
)
unknown = st.builds(UnknownStamps, st.dictionaries(plain.map(lambda name: f"x-{name}"), texts, min_size=1, max_size=3))


@STEADY
@given(st.lists(listed, max_size=10), single, unknown)
def test_any_stamps_come_back_grouped_by_class(
    many: list[Stamp], once: Sequence[Stamp], foreign: UnknownStamps
) -> None:
    sent = [*many, *once, foreign]
    received = out_and_back(*sent)
    kinds = list(dict.fromkeys(type(each) for each in sent))
    assert received == tuple(each for kind in kinds for each in sent if type(each) is kind)
    assert list(map(type, received)) == [kind for kind in kinds for each in sent if type(each) is kind]
