from __future__ import annotations

import dataclasses
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from bus import outcome_stamps, stamps
from bus.errors import ConfigurationError
from bus.stamps import MessageIdStamp, NonSendableStamp, Stamp, TransportNamesStamp, stamp

EVERY_STAMP = sorted(
    {
        member
        for module in (stamps, outcome_stamps)
        for member in vars(module).values()
        if inspect.isclass(member) and issubclass(member, Stamp) and member not in (Stamp, NonSendableStamp)
    },
    key=lambda cls: cls.__name__,
)

# The fields of Symfony's stamps, in the order of its JSON; the names in snake_case are ours.
SYMFONY = {
    "BusNameStamp": ["bus_name"],
    "DelayStamp": ["delay"],
    "RedeliveryStamp": ["retry_count", "redelivered_at"],
    "ErrorDetailsStamp": ["exception_class", "exception_code", "exception_message", "flatten_exception"],
    "SentToFailureTransportStamp": ["original_receiver_name"],
    "TransportMessageIdStamp": ["id"],
    "HandledStamp": ["result", "handler_name"],
    "SerializerStamp": ["context"],
    "ValidationStamp": ["groups"],
    "RouterContextStamp": [
        "base_url",
        "method",
        "host",
        "scheme",
        "http_port",
        "https_port",
        "path_info",
        "query_string",
    ],
}


@pytest.mark.parametrize("cls", EVERY_STAMP)
def test_a_stamp_is_frozen_and_slotted_and_its_name_says_that_it_is_one(cls: Any) -> None:
    assert cls.__name__.endswith(("Stamp", "Stamps"))
    if issubclass(cls, msgspec.Struct):
        assert cls.__struct_config__.frozen
    elif cls is not MessageIdStamp:
        assert cls.__dataclass_params__.frozen
    assert not hasattr(cls.__new__(cls), "__dict__")
    assert inspect.getdoc(cls)


def test_a_message_id_is_made_when_it_is_first_read_and_then_stays() -> None:
    given = MessageIdStamp()
    with ThreadPoolExecutor(8) as pool:
        read = set(pool.map(lambda _: given.id, range(100)))

    assert read == {given.id}
    assert given == MessageIdStamp(given.id)
    assert hash(given) == hash(MessageIdStamp(given.id))
    assert given != MessageIdStamp()
    with pytest.raises(AttributeError):
        given.id = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", SYMFONY)
def test_symfonys_stamps_have_symfonys_fields(name: str) -> None:
    cls = getattr(stamps, name)
    fields = msgspec.structs.fields(cls) if issubclass(cls, msgspec.Struct) else dataclasses.fields(cls)
    assert [field.name for field in fields] == SYMFONY[name]
    assert not issubclass(cls, NonSendableStamp)


@pytest.mark.parametrize(
    ("given", "names"), [("async", ("async",)), (["a", "b"], ("a", "b")), (("a",), ("a",)), ([], ())]
)
def test_transport_names_are_given_as_one_or_as_several(given: Any, names: tuple[str, ...]) -> None:
    made = TransportNamesStamp(given)
    assert made.names == names
    assert made == TransportNamesStamp(names)


def test_a_name_marks_a_stamp_and_changes_nothing_else() -> None:
    class TenantStamp(Stamp):
        pass

    assert stamp("tenant")(TenantStamp) is TenantStamp
    assert vars(TenantStamp)["__bus_stamp__"] == "tenant"


def test_the_mark_survives_when_a_slotted_dataclass_is_made_above_it() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    @stamp("tenant")
    class TenantStamp(Stamp):
        tenant: str

    assert vars(TenantStamp)["__bus_stamp__"] == "tenant"


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "é", "\x00"])
def test_a_name_that_cannot_be_part_of_a_header_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a stamp; a name has 1 to 128 printable ASCII"):
        stamp(name)


@pytest.mark.parametrize("base", [NonSendableStamp, object])
def test_a_class_that_is_never_sent_gets_no_name(base: Any) -> None:
    with pytest.raises(ConfigurationError, match='"MyStamp" is no stamp that is sent: let it inherit from Stamp'):
        stamp("mine")(type("MyStamp", (base,), {}))
