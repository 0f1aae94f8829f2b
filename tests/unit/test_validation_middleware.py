from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest

from bus import (
    BusConfig,
    Envelope,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
    TransportConfig,
    ValidationStamp,
    WorkerOptions,
    message,
)
from bus.errors import ConfigurationError, ValidationFailedError
from bus.stamps import ErrorDetailsStamp


@message("validation.order")
@dataclass(frozen=True)
class Order:
    quantity: int

    def validate(self) -> None:
        if self.quantity < 1:
            raise ValueError("quantity: must be at least 1")


@dataclass(frozen=True)
class Basket:
    articles: tuple[str, ...]

    def validate(self, groups: tuple[str, ...]) -> list[str]:
        if "strict" not in groups:
            return []
        return [f"{each}: not for sale" for each in self.articles]


@message("validation.model")
class Model(pydantic.BaseModel):
    quantity: int = pydantic.Field(ge=1, alias="qty")


class ModelWithGroups(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def _short_in_strict(cls, name: str, info: pydantic.ValidationInfo) -> str:
        if "strict" in (info.context or {}).get("groups", ()) and len(name) > 3:
            raise ValueError("too long")
        return name


class ModelWithOwn(pydantic.BaseModel):
    first: int
    last: int

    def validate(self) -> str | None:  # type: ignore[override]
        return "last: before first" if self.last < self.first else None


@dataclass(frozen=True)
class Plain:
    quantity: int


class Sized(msgspec.Struct, frozen=True):
    size: int

    def validate(self) -> None:
        msgspec.convert({"size": str(self.size)}, Sized)


@dataclass(frozen=True)
class Asks:
    def validate(self) -> None:
        raise ConnectionError("the stock cannot be asked")


@dataclass(frozen=True)
class Later:
    async def validate(self) -> None: ...


def make(*handlers: Any, routing: dict[str, tuple[str, ...]] | None = None) -> Messenger:
    return Messenger(
        MessengerConfig(
            buses={"main": BusConfig(middleware=(MiddlewareConfig(name="validation"),))},
            failure_transport="failed",
            transports={"queue": TransportConfig(dsn="in-memory://"), "failed": TransportConfig(dsn="in-memory://")},
            routing=routing or {},
        ),
        handlers=handlers,
    )


def handled(*messages: Any, stamps: Any = ()) -> list[object]:
    seen: list[object] = []

    def any_of_them(given: Order | Basket | Model | ModelWithGroups | ModelWithOwn | Plain) -> None:
        seen.append(given)

    messenger = make(any_of_them)
    for each in messages:
        messenger.bus.dispatch(each, stamps)
    return seen


def violations(given: object, *groups: str) -> tuple[str, ...]:
    with pytest.raises(ValidationFailedError) as caught:
        handled(given, stamps=[ValidationStamp(groups)] if groups else ())
    assert caught.value.message is given
    return caught.value.violations


def test_valid_messages_and_those_that_cannot_be_validated_pass() -> None:
    messages = [Order(1), Plain(0), Model(qty=1), ModelWithOwn(first=1, last=2), Basket(("teapot",))]

    assert handled(*messages) == messages


def test_what_validate_raises_is_a_violation_and_nobody_handles_the_message() -> None:
    assert violations(Order(0)) == ("quantity: must be at least 1",)


def test_what_validate_returns_are_violations() -> None:
    assert violations(Basket(("teapot", "cup")), "strict") == ("teapot: not for sale", "cup: not for sale")
    assert violations(ModelWithOwn(first=2, last=1)) == ("last: before first",)


def test_a_model_that_was_made_without_validation_is_validated_at_dispatch() -> None:
    assert violations(Model.model_construct(quantity=0)) == ("quantity: Input should be greater than or equal to 1",)


def test_groups_reach_a_model_in_its_context() -> None:
    assert handled(ModelWithGroups(name="teapot")) == [ModelWithGroups(name="teapot")]
    assert violations(ModelWithGroups(name="teapot"), "strict") == ("name: Value error, too long",)


def test_an_invalid_message_is_not_sent() -> None:
    def on_order(order: Order) -> None: ...

    messenger = make(on_order, routing={"validation.order": ("queue",)})

    with pytest.raises(ValidationFailedError):
        messenger.bus.dispatch(Order(0))

    assert messenger.transports["queue"].peek(10) == []


def test_an_invalid_message_from_a_transport_goes_to_the_failure_transport_at_once() -> None:
    attempts: list[object] = []

    def on_order(order: Order) -> None:
        attempts.append(order)

    messenger = make(on_order)
    # As a program sends it that does not validate.
    messenger.transports["queue"].send(Envelope(Order(0)))
    messenger.worker(["queue"], WorkerOptions(stop_when_empty=True)).run()

    (stored,) = messenger.transports["failed"].peek(10)
    assert attempts == []
    assert "quantity: must be at least 1" in stored.last(ErrorDetailsStamp).exception_message


def test_a_struct_may_raise_the_validation_error_of_its_library() -> None:
    def on_sized(given: Sized) -> None: ...

    with pytest.raises(ValidationFailedError, match="Expected `int`"):
        make(on_sized).bus.dispatch(Sized(1))


def test_another_error_of_validate_is_no_violation() -> None:
    def on_asks(given: Asks) -> None: ...

    with pytest.raises(ConnectionError):
        make(on_asks).bus.dispatch(Asks())


def test_an_async_validate_is_refused() -> None:
    def on_later(given: Later) -> None: ...

    with pytest.raises(ConfigurationError, match=r'"validate" of the message .*Later" is an "async def"'):
        make(on_later).bus.dispatch(Later())
