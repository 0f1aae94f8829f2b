"""Messages of every kind of class, with every kind of field, out and back."""

from __future__ import annotations

import enum
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from bus import serializer as module
from bus.envelope import Envelope
from bus.errors import DecodingError, EncodingError
from bus.messages import MessageTypes, message, wire_name
from bus.serializer import EncodedEnvelope, JsonSerializer
from bus.wire.object_shape import camel

# The same examples in each run, however slow the machine is.
STEADY = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Line:
    unit_price: Decimal
    part_number: str = ""


@dataclass(frozen=True, slots=True)
class PlainDataclass:
    order_id: str
    first_line: Line
    more_lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class KeywordDataclass:
    order_id: str
    first_line: Line
    more_lines: tuple[Line, ...] = ()


class Structure(msgspec.Struct, frozen=True):
    order_id: str
    first_line: Line
    more_lines: list[Line] = []


@attrs.frozen
class WithAttrs:
    order_id: str
    first_line: Line
    more_lines: list[Line] = attrs.field(factory=list)


class Pydantic(pydantic.BaseModel):
    order_id: str
    first_line: Line
    more_lines: list[Line] = []


@pydantic.dataclasses.dataclass(frozen=True)
class PydanticDataclass:
    order_id: str
    first_line: Line
    more_lines: list[Line] = pydantic.Field(default_factory=list)


class StrictPydantic(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")
    order_id: str
    first_line: Line
    more_lines: list[Line] = []
    at: datetime = datetime(2024, 5, 6, tzinfo=UTC)


KINDS: list[type] = [
    PlainDataclass,
    KeywordDataclass,
    Structure,
    WithAttrs,
    Pydantic,
    PydanticDataclass,
    StrictPydantic,
]


def renamed(cls: type) -> type:
    """Return the class anew, marked with rename="camel"."""
    again = type(cls)(cls.__name__, (cls,), {"__module__": __name__})
    return message(f"camel.{cls.__name__}", rename="camel")(attrs.frozen(again) if cls is WithAttrs else again)


CAMEL = {cls: renamed(cls) for cls in KINDS}


def out_and_back(value: Any, *known: type) -> tuple[Any, bytes]:
    serializer = JsonSerializer(MessageTypes([type(value), *known]))
    encoded = serializer.encode(Envelope(value))
    return serializer.decode(encoded).message, encoded.body


def decode(cls: type, body: bytes) -> Any:
    serializer = JsonSerializer(MessageTypes([cls]))
    return serializer.decode(EncodedEnvelope(body, {"type": wire_name(cls)})).message


@pytest.mark.parametrize("cls", KINDS)
def test_a_message_of_any_kind_comes_back_as_it_was(cls: Any) -> None:
    made = cls(order_id="o-1", first_line=Line(Decimal("1.50"), "a"))
    again, body = out_and_back(made)
    assert type(again) is cls
    assert again == made
    assert json.loads(body)["first_line"] == {"unit_price": "1.50", "part_number": "a"}


@pytest.mark.parametrize("cls", KINDS)
def test_a_message_of_any_kind_can_have_its_keys_in_camel_case(cls: Any) -> None:
    made = CAMEL[cls](order_id="o-1", first_line=Line(Decimal("1.50"), "a"), more_lines=[Line(Decimal(2))])
    again, body = out_and_back(made)
    assert type(again) is type(made)
    assert list(again.more_lines) == [Line(Decimal(2))]
    assert again.first_line == made.first_line
    sent = json.loads(body)
    assert sent["orderId"] == "o-1"
    assert sent["firstLine"] == {"unitPrice": "1.50", "partNumber": "a"}
    assert sent["moreLines"] == [{"unitPrice": "2", "partNumber": ""}]


@pytest.mark.parametrize("cls", [each for each in KINDS if each is not StrictPydantic])
@pytest.mark.parametrize("form", ["as it is", "camel"])
def test_unknown_keys_are_ignored(cls: type, form: str) -> None:
    if form == "camel":
        body = b'{"orderId":"o","firstLine":{"unitPrice":"1","nope":[]},"nope":{"a":[]}}'
        assert decode(CAMEL[cls], body).first_line == Line(Decimal(1))
    else:
        body = b'{"order_id":"o","first_line":{"unit_price":"1","nope":[]},"nope":{"a":[]}}'
        assert decode(cls, body).first_line == Line(Decimal(1))


@pytest.mark.parametrize("cls", KINDS)
def test_with_camel_case_the_python_names_are_unknown_keys(cls: type) -> None:
    with pytest.raises(DecodingError):
        decode(CAMEL[cls], b'{"order_id":"o","first_line":{"unit_price":"1"}}')


@pytest.mark.parametrize("cls", [each for each in KINDS if each is not StrictPydantic])
def test_with_camel_case_the_python_name_of_an_optional_field_is_ignored(cls: type) -> None:
    body = b'{"orderId":"o","firstLine":{"unitPrice":"1","part_number":5},"more_lines":5}'
    assert decode(CAMEL[cls], body) == CAMEL[cls](order_id="o", first_line=Line(Decimal(1)))


def test_a_class_that_keeps_unknown_keys_is_obeyed() -> None:
    class Keeping(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        order_id: str

    for mark in (message("keeping"), message("keeping", rename="camel")):
        again, body = out_and_back(mark(Keeping)(order_id="o", more_things=[[]]))
        assert b'"more_things":[[]]' in body
        assert again == Keeping(order_id="o", more_things=[[]])


def test_a_class_that_forbids_unknown_keys_is_obeyed() -> None:
    with pytest.raises(DecodingError, match="pydantic says extra_forbidden"):
        decode(StrictPydantic, b'{"order_id":"o","first_line":{"unit_price":"1"},"nope":1}')
    with pytest.raises(DecodingError, match="pydantic says extra_forbidden"):
        decode(CAMEL[StrictPydantic], b'{"orderId":"o","firstLine":{"unitPrice":"1"},"nope":1}')


def test_aliases_of_pydantic_are_its_keys() -> None:
    class Aliased(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(alias_generator=to_camel, populate_by_name=True)
        order_id: str
        kind: str = pydantic.Field("x", alias="type")

    for mark in (message("aliased"), message("aliased", rename="camel")):
        cls = mark(Aliased)
        again, body = out_and_back(cls(order_id="o", type="y"))
        assert body == b'{"orderId":"o","type":"y"}'
        assert again == cls(order_id="o", type="y")


def test_a_struct_that_renames_its_fields_itself_is_left_alone() -> None:
    class Own(msgspec.Struct, rename="kebab"):
        order_id: str = "o"

    for mark in (message("own"), message("own", rename="camel")):
        again, body = out_and_back(mark(Own)())
        assert body == b'{"order-id":"o"}'
        assert again == Own()


def test_a_pydantic_model_inside_of_a_dataclass_is_written_and_read_by_pydantic() -> None:
    class Inner(pydantic.BaseModel):
        some_time: datetime
        secret_code: int = pydantic.Field(ge=3)

    for mark in (message("outer"), message("outer", rename="camel")):

        @mark
        @dataclass
        class Outer:
            the_inner: Inner

        Outer.__annotations__["the_inner"] = Inner
        at = datetime(2024, 1, 2, tzinfo=UTC)
        again, _ = out_and_back(Outer(Inner(some_time=at, secret_code=3)))
        assert again == Outer(Inner(some_time=at, secret_code=3))
    with pytest.raises(DecodingError, match="its class raised ValidationError"):
        decode(Outer, b'{"theInner":{"someTime":"2024-01-02","secretCode":1}}')


# --- fields ---


class Point(NamedTuple):
    x: int
    line: Line


class Options(TypedDict, total=False):
    max_size: int
    one_line: Line


class Cat(msgspec.Struct, tag=True, frozen=True):
    fur_color: str


class Dog(msgspec.Struct, tag=True, frozen=True):
    fur_color: int


@dataclass
class Tree:
    node_name: str
    sub_trees: list[Tree] = field(default_factory=list)
    by_name: dict[str, Tree] = field(default_factory=dict)


@dataclass
class Everything:
    some_text: str = 'é\U0001f600\u0000\n"\\/'
    whole_number: int = 2**63
    real_number: float = -1.5e300
    yes_or_no: bool = True
    nothing_at_all: None = None
    exact_number: Decimal = Decimal("1.10")
    some_id: UUID = field(default_factory=lambda: UUID(int=7))
    moment: datetime = datetime(2024, 5, 6, 7, 8, 9, 123456, timezone(timedelta(hours=2)))
    no_zone: datetime = datetime(2024, 5, 6)  # noqa: DTZ001 - a time without zone stays one
    a_day: date = date(2024, 5, 6)
    a_time: time = time(7, 8, 9)
    how_long: timedelta = timedelta(days=1, microseconds=1)
    raw_bytes: bytes = b"\x00\xff"
    the_size: Size = Size.LARGE
    the_level: Level = Level.LOW
    a_choice: Literal["a", "b"] = "b"
    maybe_line: Line | None = Line(Decimal(1))
    number_or_line: int | Line = Line(Decimal(2))
    some_lines: list[Line] = field(default_factory=lambda: [Line(Decimal(3))])
    line_by_name: dict[str, Line] = field(default_factory=lambda: {"snake_key": Line(Decimal(4))})
    line_by_number: dict[int, Line] = field(default_factory=lambda: {5: Line(Decimal(5))})
    names_set: set[str] = field(default_factory=lambda: {"a", "b"})
    frozen_names: frozenset[int] = frozenset({1})
    a_pair: tuple[int, Line] = (6, Line(Decimal(6)))
    a_point: Point = field(default_factory=lambda: Point(7, Line(Decimal(7))))
    the_options: Options = field(default_factory=lambda: Options(max_size=8, one_line=Line(Decimal(8))))
    the_pet: Cat | Dog = field(default_factory=lambda: Dog(9))
    any_value: Any = field(default_factory=lambda: {"snake_key": [1, {"other_key": None}]})
    any_object: object = 1
    a_mapping: Mapping[str, object] = field(default_factory=lambda: {"snake_key": 1})
    a_sequence: Sequence[str] = field(default_factory=lambda: ["a"])
    the_tree: Tree = field(default_factory=lambda: Tree("a", [Tree("b")], {"c": Tree("d")}))


message("everything")(Everything)


@message("camel.everything", rename="camel")
class CamelEverything(Everything):
    pass


@pytest.mark.parametrize("cls", [Everything, CamelEverything])
def test_every_kind_of_field_comes_back_as_it_was(cls: type[Everything]) -> None:
    again, body = out_and_back(cls())
    assert again == cls()
    assert type(again.the_pet) is Dog
    sent = json.loads(body)
    key = camel if cls is CamelEverything else str
    assert sent[key("exact_number")] == "1.10"
    assert sent[key("some_id")] == "00000000-0000-0000-0000-000000000007"
    assert sent[key("moment")] == "2024-05-06T07:08:09.123456+02:00"
    assert sent[key("the_size")] == "l"
    assert sent[key("line_by_name")] == {"snake_key": {key("unit_price"): "4", key("part_number"): ""}}
    assert sent[key("the_pet")] == {"type": "Dog", key("fur_color"): 9}
    assert sent[key("the_options")][key("one_line")][key("unit_price")] == "8"
    assert sent[key("the_tree")][key("by_name")]["c"][key("node_name")] == "d"


def test_keys_that_are_data_are_not_renamed() -> None:
    _, body = out_and_back(CamelEverything())
    sent = json.loads(body)
    assert sent["anyValue"] == {"snake_key": [1, {"other_key": None}]}
    assert sent["aMapping"] == {"snake_key": 1}


def test_a_field_that_is_set_by_the_class_itself_is_set_again() -> None:
    @message("computed")
    @dataclass
    class Computed:
        net: int
        gross: int = field(init=False)

        def __post_init__(self) -> None:
            self.gross = self.net * 2

    again, body = out_and_back(Computed(2))
    assert again == Computed(2)
    assert decode(Computed, body.replace(b"4", b"5")).gross == 4


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    content: T


@message("boxes", rename="camel")
@dataclass
class Boxes:
    a_line: Box[Line]
    a_tree: Box[Tree]


def test_a_generic_class_is_read_by_its_arguments() -> None:
    boxes = Boxes(Box(Line(Decimal(1), "x")), Box(Tree("t")))
    again, body = out_and_back(boxes)
    assert again == boxes
    assert b'"partNumber":"x"' in body
    assert b'"nodeName":"t"' in body


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("order_id", "orderId"),
        ("a", "a"),
        ("_private_name", "_privateName"),
        ("trailing_", "trailing_"),
        ("http2_port", "http2Port"),
        ("a__b", "aB"),
        ("alreadyCamel", "alreadyCamel"),
        ("_", "_"),
        ("line_2", "line2"),
    ],
)
def test_camel_case(name: str, expected: str) -> None:
    assert camel(name) == expected


def test_two_fields_with_one_key_are_refused() -> None:
    @message("twice", rename="camel")
    @dataclass
    class Twice:
        order_id: str = ""
        orderId: str = ""

    with pytest.raises(EncodingError, match=r'"Twice" have the JSON key "orderId"'):
        out_and_back(Twice())


# --- PHP's empty objects ---


@message("nothing")
@dataclass(frozen=True)
class Nothing:
    pass


@message("optional")
@dataclass(frozen=True)
class Optional:
    a: int = 1


@message("container")
@dataclass(frozen=True)
class Container:
    empty: Nothing
    maybe: Nothing | None = None
    several: tuple[Nothing, ...] = ()
    free: dict[str, int] = field(default_factory=dict)
    either: list[int] | Nothing = field(default_factory=list)
    tail: Mapping[str, Optional] = field(default_factory=dict)
    anything: Any = None


message("camel.container", rename="camel")(CamelContainer := type("CamelContainer", (Container,), {}))


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b" [ ] ", b"\n{ }"])
@pytest.mark.parametrize("cls", [Nothing, Optional])
def test_an_empty_php_object_is_an_object_without_properties(cls: type, body: bytes) -> None:
    assert decode(cls, body) == cls()


def test_a_message_without_fields_is_written_as_php_writes_it() -> None:
    again, body = out_and_back(Nothing())
    assert body == b"[]"
    assert again == Nothing()


@pytest.mark.parametrize("cls", [Container, CamelContainer])
def test_an_empty_php_object_is_understood_where_the_type_wants_an_object(cls: Any) -> None:
    body = (
        b'{"empty":[],"maybe":[],"several":[[],{}],"free":[],"either":[],"tail":{"a":[]},"anything":[],"unknown":[[]]}'
    )
    assert decode(cls, body) == cls(Nothing(), Nothing(), (Nothing(), Nothing()), {}, [], {"a": Optional()}, [])


@pytest.mark.parametrize("cls", [Container, CamelContainer])
@pytest.mark.parametrize("body", [b'{"empty":[1]}', b'{"empty":null}', b'{"empty":[[]]}', b'{"empty":[],"free":[1]}'])
def test_a_list_with_something_in_it_is_no_empty_object(cls: type, body: bytes) -> None:
    with pytest.raises(DecodingError, match=r"Expected `object`, got `(array|null)` - at `\$\.(empty|free)`"):
        decode(cls, body)


class PydanticContainer(pydantic.BaseModel):
    empty: Nothing
    free: dict[str, int] = {}
    several: list[Nothing] = []


@pytest.mark.parametrize("mark", [message("pydantic.container"), message("pydantic.container", rename="camel")])
def test_a_pydantic_model_understands_empty_php_objects_too(mark: Any) -> None:
    cls = mark(type("Model", (PydanticContainer,), {"__module__": __name__}))
    expected = cls(empty=Nothing(), several=[Nothing()])
    assert decode(cls, b'{"empty":[],"free":[],"several":[[]]}') == expected


# --- what JSON cannot carry ---


class Unserializable:
    pass


@message("holder")
@dataclass
class Holder:
    some_items: list[Any] = field(default_factory=list)
    by_name: dict[str, Any] = field(default_factory=dict)
    number: float = 0.0


def test_the_error_names_the_message_and_the_field_that_cannot_be_written() -> None:
    holder = Holder([{"a": 1}, Holder(by_name={"key": Unserializable()})])
    with pytest.raises(EncodingError) as caught:
        out_and_back(holder)
    assert str(caught.value).startswith(
        'The message "holder" cannot be written: the field "some_items[1].by_name[\'key\']" holds a "Unserializable"; '
        "JSON carries dataclasses, "
    )


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(EncodingError, match=r'the field "some_items\[0\]" holds text with a lone surrogate'):
        out_and_back(Holder(["\ud800"]))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mark", [message("holder"), message("holder", rename="camel")])
def test_a_float_that_json_cannot_carry_is_refused_instead_of_becoming_null(mark: Any, number: float) -> None:
    cls = mark(type("Sub", (Holder,), {"__module__": __name__}))
    with pytest.raises(EncodingError, match=f'the field "number" is {number}, which JSON cannot carry'):
        out_and_back(cls(number=number))
    with pytest.raises(EncodingError, match=r"the field \"some_items\[0\]\['a'\]\" is"):
        out_and_back(cls([{"a": number}]))


def test_a_pydantic_model_with_such_a_float_is_refused_too() -> None:
    class Model(pydantic.BaseModel):
        ratio: float

    message("model")(Model)
    with pytest.raises(EncodingError, match='the field "ratio" is nan'):
        out_and_back(Model(ratio=math.nan))


def test_a_null_beside_a_float_is_no_fault() -> None:
    again, _ = out_and_back(Holder([None]))
    assert again == Holder([None])


@pytest.mark.parametrize("value", [{"a": 1}, [1], "text", 5, None, Unserializable(), Point(1, Line(Decimal(1)))])
def test_an_object_that_is_no_message_is_refused(value: Any) -> None:
    with pytest.raises(EncodingError, match="it is neither a dataclass nor a msgspec Struct"):
        JsonSerializer(MessageTypes()).encode(Envelope(value))


@dataclass
class PlainField:
    inner: list[Unserializable]


@dataclass
class TwoDataclasses:
    inner: Line | Tree


@dataclass
class Unresolvable:
    inner: NotThere  # type: ignore[name-defined]  # noqa: F821 - as an import under TYPE_CHECKING would be


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (PlainField([]), r'"PlainField\.inner\[\.\.\.\]" is annotated with "Unserializable", which has no JSON form'),
        (TwoDataclasses(Tree("")), "unions may not contain more than one dataclass"),
        (Unresolvable(1), "name 'NotThere' is not defined"),
    ],
)
def test_a_class_that_could_not_be_read_back_is_refused_by_the_sender(value: Any, reason: str) -> None:
    name = f"{__name__}.{type(value).__name__}"
    with pytest.raises(EncodingError, match=f'The message "{name}" cannot be written: .*{reason}'):
        out_and_back(value)
    with pytest.raises(DecodingError, match=f'type "{name}" cannot be read: .*{reason}'):
        decode(type(value), b'{"inner":[]}')


def test_a_local_class_needs_a_name_to_be_sent() -> None:
    @dataclass
    class Local:
        pass

    with pytest.raises(EncodingError, match=r'give it a stable one with @message\("some.name"\)'):
        JsonSerializer(MessageTypes()).encode(Envelope(Local()))


def test_a_message_that_is_only_sent_from_here_need_not_be_known() -> None:
    encoded = JsonSerializer(MessageTypes()).encode(Envelope(Line(Decimal(1))))
    assert encoded.headers["type"] == f"{__name__}.Line"


def test_pydantic_is_imported_for_pydantic_models_only() -> None:
    program = (
        "import sys\nfrom dataclasses import dataclass\nfrom bus.serializer import *\nfrom bus.messages import *\n"
        "from bus.envelope import Envelope\n@message('m')\n@dataclass\nclass M:\n    a: int\n"
        "s = JsonSerializer(MessageTypes([M]))\nassert s.decode(s.encode(Envelope(M(1)))).message == M(1)\n"
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_codec_is_built_once_per_class(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = module.codec_for
    monkeypatch.setattr(module, "codec_for", lambda *arguments: built.append(arguments) or build(*arguments))
    serializer = JsonSerializer(MessageTypes([Holder]))
    for _ in range(3):
        serializer.decode(serializer.encode(Envelope(Holder())))
    assert len(built) == 1


# --- any value ---

texts = st.text(st.characters(exclude_categories=["Cs"]))
decimals = st.decimals(allow_nan=False, allow_infinity=False)
lines = st.builds(Line, decimals, texts)
trees = st.deferred(
    lambda: st.builds(Tree, texts, st.lists(trees, max_size=2), st.dictionaries(texts, trees, max_size=2))
)
everythings = st.builds(
    Everything,
    some_text=texts,
    whole_number=st.integers(-(2**63), 2**64 - 1),
    real_number=st.floats(allow_nan=False, allow_infinity=False),
    exact_number=decimals,
    some_id=st.uuids(),
    moment=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5, minutes=-30))])),
    no_zone=st.datetimes(),
    how_long=st.timedeltas(timedelta(days=-9999), timedelta(days=9999)),
    raw_bytes=st.binary(),
    maybe_line=st.none() | lines,
    number_or_line=st.integers(-(2**63), 2**63 - 1) | lines,
    some_lines=st.lists(lines),
    line_by_name=st.dictionaries(texts, lines),
    line_by_number=st.dictionaries(st.integers(-(2**63), 2**63 - 1), lines),
    names_set=st.sets(texts),
    the_pet=st.builds(Cat, texts) | st.builds(Dog, st.integers(0, 9)),
    any_value=st.recursive(
        st.none() | st.booleans() | texts | st.integers(-(2**63), 2**63),
        lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
        max_leaves=5,
    ),
    the_tree=trees,
)


@STEADY
@given(everythings)
def test_any_message_comes_back_as_it_was(made: Everything) -> None:
    again, _ = out_and_back(made)
    assert again == made


@STEADY
@given(everythings)
def test_any_message_comes_back_as_it_was_by_way_of_camel_case(made: Everything) -> None:
    made.__class__ = CamelEverything
    again, _ = out_and_back(made)
    assert again == made
