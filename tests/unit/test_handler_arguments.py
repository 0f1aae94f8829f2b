from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from bus import Messenger, MessengerConfig, TransportConfig
from bus.errors import UnrecoverableError
from bus.stamps import HandledStamp, HandlerArgumentsStamp, MessageIdStamp


@dataclass(frozen=True)
class Placed:
    id: str


class Clock:
    pass


class OneClock:
    def __init__(self) -> None:
        self.clock = Clock()

    def get(self, wanted: type) -> Any:
        return self.clock


def results(*handlers: Any, container: Any = None, **arguments: object) -> list[object]:
    messenger = Messenger(handlers=handlers, container=container)
    envelope = messenger.bus.dispatch(Placed("o-1"), [HandlerArgumentsStamp(arguments)])
    return [stamp.result for stamp in envelope.all(HandledStamp)]


def test_an_argument_takes_the_place_of_a_default() -> None:
    def on_placed(event: Placed, dry_run: bool = False) -> str:
        return f"{event.id} {dry_run}"

    assert results(on_placed, dry_run=True) == ["o-1 True"]
    assert results(on_placed) == ["o-1 False"]


def test_each_handler_gets_those_arguments_that_it_has_parameters_for() -> None:
    def first(event: Placed, dry_run: bool = False, *, depth: int = 0) -> str:
        return f"{dry_run} {depth}"

    def second(event: Placed, dry_run: bool = False) -> str:
        return f"{dry_run}"

    def third(event: Placed) -> str:
        return event.id

    assert results(first, second, third, dry_run=True, depth=2) == ["True 2", "True", "o-1"]


def test_a_handler_with_open_keywords_gets_them_all() -> None:
    def on_placed(event: Placed, **rest: object) -> object:
        return rest

    assert results(on_placed, a=1, b=2) == [{"a": 1, "b": 2}]


def test_an_argument_wins_over_the_container() -> None:
    def on_placed(event: Placed, clock: Clock) -> object:
        return clock

    container, other = OneClock(), Clock()

    assert results(on_placed, container=container) == [container.clock]
    assert results(on_placed, container=container, clock=other) == [other]


def test_a_name_that_no_handler_has_is_an_error_with_the_nearest_one() -> None:
    def on_placed(event: Placed, dry_run: bool = False) -> None: ...

    with pytest.raises(UnrecoverableError, match=r'"dry_rum".*did you mean "dry_run"'):
        results(on_placed, dry_rum=True)


def test_what_a_stamp_fills_cannot_be_given() -> None:
    def on_placed(event: Placed, identity: MessageIdStamp) -> None: ...

    with pytest.raises(UnrecoverableError, match='"identity", which no handler of the message takes'):
        results(on_placed, identity=MessageIdStamp("forged"))


def test_arguments_stay_in_the_process() -> None:
    config = MessengerConfig(
        transports={"queue": TransportConfig(dsn="in-memory://")}, routing={f"{__name__}.Placed": ("queue",)}
    )

    def on_placed(event: Placed, dry_run: bool = False) -> None: ...

    with Messenger(config, handlers=[on_placed]) as messenger:
        messenger.bus.dispatch(Placed("o-1"), [HandlerArgumentsStamp({"dry_run": object()})])
        (received,) = messenger.transports["queue"].get(1)

        assert received.last(HandlerArgumentsStamp) is None
