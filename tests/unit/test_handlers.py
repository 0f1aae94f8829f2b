from __future__ import annotations

import abc
import functools
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Optional, Protocol, Union, runtime_checkable

import pytest

from bus.envelope import Envelope
from bus.errors import ConfigurationError, UnrecoverableError
from bus.handlers import HandlersLocator, describe, handler, scan
from bus.stamps import DelayStamp, HandledBySyncTransportStamp, MessageIdStamp, ReceivedStamp


@dataclass(frozen=True)
class Placed:
    id: str


@dataclass(frozen=True)
class Cancelled:
    id: str


class Event(abc.ABC):
    pass


@dataclass(frozen=True)
class Shipped(Event):
    id: str


@runtime_checkable
class HasId(Protocol):
    def weight(self) -> int: ...


class Parcel:
    def weight(self) -> int:
        return 7


class NotCheckable(Protocol):
    def weight(self) -> int: ...


def only(target: Any, **options: Any):
    (described,) = describe(target, **options)
    return described


def test_a_function_names_its_message_by_the_first_parameter():
    @handler
    def on_placed(event: Placed) -> str:
        return event.id

    described = only(on_placed)

    assert described.handles == (Placed,)
    assert described.invoke(Envelope(Placed("o-1"))) == "o-1"
    assert described.name.endswith("on_placed")
    assert not described.is_async


@pytest.mark.parametrize("annotation", [Placed | Cancelled, Union[Placed, Cancelled], "Placed | Cancelled"])  # noqa: UP007
def test_a_union_names_several_messages(annotation):
    def on_either(event): ...

    on_either.__annotations__["event"] = annotation

    assert only(on_either).handles == (Placed, Cancelled)


def test_a_bound_method_is_a_handler():
    class Mailer:
        def send(self, event: Placed) -> str:
            return f"{self.greeting} {event.id}"

    mailer = Mailer()
    mailer.greeting = "hello"

    assert only(mailer.send).invoke(Envelope(Placed("o-1"))) == "hello o-1"


def test_a_class_with_call_is_built_once_and_only_when_it_is_needed():
    built = []

    @handler
    class Projector:
        def __init__(self) -> None:
            built.append(self)

        def __call__(self, event: Placed) -> object:
            return self

    described = only(Projector)
    assert built == []

    results = [described.invoke(Envelope(Placed("o-1"))) for _ in range(3)]

    assert results == built * 3


def test_marked_methods_of_one_class_are_handlers_of_their_own():
    class Handlers:
        @handler
        def placed(self, event: Placed) -> str:
            return "placed"

        @handler(priority=5)
        def cancelled(self, event: Cancelled) -> str:
            return "cancelled"

        def helper(self, event: Placed) -> None: ...

    described = {each.name.rpartition(".")[2]: each for each in describe(Handlers)}

    assert set(described) == {"placed", "cancelled"}
    assert described["cancelled"].invoke(Envelope(Cancelled("x"))) == "cancelled"


def test_a_marked_class_may_name_its_method():
    @handler(method="run")
    class Job:
        def run(self, event: Placed) -> str:
            return "ran"

    assert only(Job).invoke(Envelope(Placed("x"))) == "ran"


def test_a_method_that_does_not_exist_is_named():
    @handler(method="rum")
    class Job:
        def run(self, event: Placed) -> None: ...

    with pytest.raises(ConfigurationError, match='has no method "rum"'):
        only(Job)


def test_a_partial_and_a_callable_object_are_handlers():
    def on_placed(prefix: str, event: Placed) -> str:
        return prefix + event.id

    class Callable_:
        async def __call__(self, event: Placed) -> None: ...

    partial = only(functools.partial(on_placed, "id "))

    assert partial.invoke(Envelope(Placed("1"))) == "id 1"
    assert only(Callable_()).is_async


def test_async_functions_and_methods_are_recognised():
    @handler
    async def on_placed(event: Placed) -> None: ...

    class Handlers:
        @handler
        async def on_placed(self, event: Placed) -> None: ...

    assert only(on_placed).is_async
    assert only(Handlers).is_async


def test_an_alias_tells_two_marks_of_one_function_apart():
    @handler(alias="b", from_transport="audit")
    @handler(alias="a")
    def on_placed(event: Placed) -> None: ...

    assert [each.name.rpartition("@")[2] for each in describe(on_placed)] == ["a", "b"]


def test_further_parameters_are_filled_with_envelope_and_stamps():
    def on_placed(event: Placed, envelope: Envelope, id_: MessageIdStamp, delay: DelayStamp | None, tries: int = 3):
        return envelope.message, id_.id, delay, tries

    invoke = only(on_placed).invoke

    assert invoke(Envelope(Placed("x"), (MessageIdStamp("m-1"),))) == (Placed("x"), "m-1", None, 3)


def test_an_optional_of_the_typing_module_counts_as_optional():
    def on_placed(event: Placed, delay: Optional[DelayStamp]):  # noqa: UP045
        return delay

    assert only(on_placed).invoke(Envelope(Placed("x"), (DelayStamp(5),))) == DelayStamp(5)


def test_a_missing_stamp_is_an_error_that_no_retry_can_mend():
    def on_placed(event: Placed, id_: MessageIdStamp) -> None: ...

    with pytest.raises(UnrecoverableError, match="has no MessageIdStamp, which handler"):
        only(on_placed).invoke(Envelope(Placed("x")))


class Mailer:
    pass


class OneMailer:
    def __init__(self) -> None:
        self.mailer = Mailer()

    def get(self, wanted: type) -> Any:
        return self.mailer if wanted is Mailer else wanted(self.mailer)


def test_a_container_fills_other_parameters_and_builds_classes():
    @handler
    class Welcome:
        def __init__(self, mailer: Mailer) -> None:
            self.mailer = mailer

        def __call__(self, event: Placed, other: Mailer) -> tuple[Mailer, Mailer]:
            return self.mailer, other

    container = OneMailer()

    assert only(Welcome, container=container).invoke(Envelope(Placed("x"))) == (container.mailer, container.mailer)


def test_without_a_container_a_parameter_that_nothing_fills_is_an_error():
    def on_placed(event: Placed, mailer: Mailer) -> None: ...

    with pytest.raises(ConfigurationError, match=r'Nothing can fill the parameter "mailer".*there is no container'):
        only(on_placed)


def test_a_first_parameter_without_a_class_is_an_error():
    def on_anything(event) -> None: ...

    def on_object(event: object) -> None: ...

    def on_nothing() -> None: ...

    for target, text in [(on_anything, "names no message class"), (on_object, "names no"), (on_nothing, "takes no")]:
        with pytest.raises(ConfigurationError, match=text):
            only(target)


def test_handles_replaces_the_annotation():
    @handler(handles=[Placed, Cancelled])
    def on_anything(event) -> None: ...

    assert only(on_anything).handles == (Placed, Cancelled)


def test_a_list_of_messages_makes_a_batch_handler():
    @handler(batch_size=5, batch_wait="50ms")
    def on_many(events: list[Placed | Cancelled], envelopes: list[Envelope], label: str = "x") -> str:
        return label + "".join(each.id for each in events) + str(len(envelopes))

    described = only(on_many)

    assert described.handles == (Placed, Cancelled)
    assert (described.batch.size, described.batch.wait) == (5, 0.05)
    assert described.invoke(Envelope(Placed("a"))) == "xa1"
    assert described.batch.invoke([Envelope(Placed("a")), Envelope(Cancelled("b"))]) == "xab2"


def test_a_batch_handler_has_a_size_and_a_wait_without_saying_so():
    def on_many(events: list[Placed]) -> None: ...

    assert (only(on_many).batch.size, only(on_many).batch.wait) == (100, 1.0)


@pytest.mark.parametrize(
    ("options", "annotation", "problem"),
    [
        ({"batch_size": 0}, "list[Placed]", "The batch_size of handler .* is 0; it must be at least 1"),
        ({"batch_wait": "5"}, "list[Placed]", "The batch_wait of handler .*: the number 5 has no unit"),
        ({"batch_wait": 5}, "list[Placed]", "The batch_wait of handler .*: the number 5 has no unit"),
        ({"batch_size": 5}, "Placed", 'takes single messages; annotate "events" as a list of them'),
        ({"batch_wait": "5s"}, "Placed", "takes single messages"),
    ],
)
def test_options_of_a_batch_that_cannot_be_are_refused(options, annotation, problem):
    def on_many(events): ...

    on_many.__annotations__["events"] = annotation

    with pytest.raises(ConfigurationError, match=problem):
        only(handler(**options)(on_many))


@pytest.mark.parametrize("annotation", ["Envelope", "MessageIdStamp", "MessageIdStamp | None"])
def test_a_batch_handler_cannot_ask_for_what_each_message_has_its_own_of(annotation):
    def on_many(events: list[Placed], other): ...

    on_many.__annotations__["other"] = annotation

    with pytest.raises(ConfigurationError, match=r'"other" of batch handler .* may ask for list\[Envelope\]'):
        only(on_many)


def test_a_protocol_must_be_checkable_at_run_time():
    def on_it(event: NotCheckable) -> None: ...

    with pytest.raises(ConfigurationError, match="must be @runtime_checkable"):
        only(on_it)


def test_an_annotation_that_cannot_be_resolved_names_the_handler():
    def on_it(event: Missing) -> None: ...  # noqa: F821

    with pytest.raises(ConfigurationError, match=r'The signature of handler ".*on_it" cannot be read'):
        only(on_it)


def locate(*targets: Any, bus: str = "main") -> HandlersLocator:
    return HandlersLocator([each for target in targets for each in describe(target)], bus)


def names(locator: HandlersLocator, cls: type) -> list[str]:
    return [each.name.rpartition(".")[2] for each in locator.of_type(cls)]


@runtime_checkable
class HasFields(Protocol):
    id: str


def takes_a_protocol_with_fields(event: HasFields) -> None: ...


def takes_anything(event: Any) -> None: ...


def yields(event: Placed) -> Any:
    yield event


async def yields_later(event: Placed) -> Any:
    yield event


def takes_a_keyword_only(*, event: Placed) -> None: ...


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (takes_a_protocol_with_fields, "HasFields"),
        (takes_anything, "names no message class"),
        (yields, 'contains a "yield"'),
        (yields_later, 'contains a "yield"'),
        (takes_a_keyword_only, "takes no message"),
        (handler(handles="shop.Placed")(lambda event: None), "'shop.Placed', which is no class"),  # type: ignore[arg-type]
        (handler(handles=Placed, priority="high")(lambda event: None), "priority"),  # type: ignore[call-overload]
        (Parcel(), "cannot be called"),
    ],
)
def test_what_would_be_taken_for_a_handler_and_never_do_its_work_is_refused(target: Any, problem: str):
    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        only(target)


class Stateless:
    @staticmethod
    @handler
    def below(event: Placed) -> str:
        return f"below {event.id}"

    @handler
    @classmethod
    def above(cls, event: Placed) -> str:
        return f"{cls.__name__} {event.id}"


def test_static_and_class_methods_are_handlers_wherever_the_mark_stands():
    module = ModuleType("shop")
    module.Stateless = Stateless  # type: ignore[attr-defined]

    (found,) = scan(module)

    assert {each.invoke(Envelope(Placed("1"))) for each in describe(found)} == {"below 1", "Stateless 1"}


def test_handlers_of_parents_abcs_and_protocols_are_found_by_priority():
    @handler
    def on_shipped(event: Shipped) -> None: ...

    @handler(priority=10)
    def on_event(event: Event) -> None: ...

    @handler(priority=-1)
    def on_weight(event: HasId) -> None: ...

    locator = locate(on_shipped, on_event, on_weight)

    assert names(locator, Shipped) == ["on_event", "on_shipped"]
    assert names(locator, Parcel) == ["on_weight"]
    assert names(locator, Placed) == []


def test_a_handler_of_another_bus_is_not_found():
    @handler(bus="other")
    def on_placed(event: Placed) -> None: ...

    assert names(locate(on_placed), Placed) == []
    assert names(locate(on_placed, bus="other"), Placed) == ["on_placed"]


def test_from_transport_asks_where_the_message_came_from():
    @handler(from_transport="audit")
    def on_placed(event: Placed) -> None: ...

    takes = only(on_placed).takes

    assert takes(Envelope(Placed("x"), (ReceivedStamp("audit"),)))
    assert takes(Envelope(Placed("x"), (HandledBySyncTransportStamp("audit"),)))
    assert not takes(Envelope(Placed("x"), (ReceivedStamp("async"),)))
    assert not takes(Envelope(Placed("x")))


def test_scanning_finds_marked_functions_and_classes_and_nothing_else():
    module = ModuleType("shop")

    @handler
    def on_placed(event: Placed) -> None: ...

    @handler
    class OnCancelled:
        def __call__(self, event: Cancelled) -> None: ...

    class Child(OnCancelled):
        pass

    module.__dict__.update(a=on_placed, b=OnCancelled, c=Child, d=3, e=functools.partial(print))

    assert list(scan(module)) == [on_placed, OnCancelled]
