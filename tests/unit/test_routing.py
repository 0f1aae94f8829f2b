from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bus.envelope import Envelope
from bus.messages import MessageTypes, message
from bus.routing import Routing
from bus.stamps import TransportNamesStamp


class Event(abc.ABC):
    pass


@runtime_checkable
class Audited(Protocol):
    def audit(self) -> str: ...


@message("order.placed", aliases=["order.created"])
@dataclass(frozen=True)
class Placed(Event):
    id: str = "x"

    def audit(self) -> str:
        return self.id


@message(transport=["slow"])
@dataclass(frozen=True)
class Marked:
    id: str = "x"


@message("App\\Event\\Paid")
@dataclass(frozen=True)
class Paid:
    id: str = "x"


HERE = __name__


def route(message_object: object, **routes: tuple[str, ...] | str) -> tuple[str, ...]:
    table = {key: (names,) if isinstance(names, str) else names for key, names in routes.items()}
    known = {f"{HERE}.Event": Event, f"{HERE}.Audited": Audited, "order.placed": Placed, "order.created": Placed}
    return Routing(table, MessageTypes([Placed, Marked, Paid]), known.get).of(Envelope.wrap(message_object))


def test_wire_name_alias_python_path_parents_and_protocols_all_name_a_class():
    for key in ("order.placed", "order.created", f"{HERE}.Placed", f"{HERE}.Event", f"{HERE}.Audited"):
        assert route(Placed(), **{key: "async"}) == ("async",), key


def test_all_keys_that_match_add_up_without_repeats():
    routes = {"order.placed": ("async", "audit"), f"{HERE}.Event": ("audit", "events")}

    assert route(Placed(), **routes) == ("async", "audit", "events")


def test_a_wildcard_counts_only_when_no_key_matched():
    assert route(Placed(), **{"order.*": "wild", "order.placed": "exact"}) == ("exact",)
    assert route(Placed(), **{"order.*": "wild", "*": "all"}) == ("wild",)


def test_the_most_specific_wildcard_wins_and_the_star_comes_last():
    assert route(Paid(), **{"App\\*": "app", "App\\Event\\*": "event", "*": "all"}) == ("event",)
    assert route(Marked(), **{"App\\*": "app", "*": "all"}) == ("all",)


def test_a_wildcard_covers_the_python_path_too():
    assert route(Placed(), **{f"{HERE}.*": "here"}) == ("here",)


def test_the_mark_on_the_class_counts_when_no_rule_matches():
    assert route(Marked()) == ("slow",)
    assert route(Marked(), **{f"{HERE}.Marked": "fast"}) == ("fast",)


def test_the_stamp_wins_over_everything():
    assert route(Envelope(Placed(), (TransportNamesStamp("chosen"),)), **{"*": "all"}) == ("chosen",)
    assert route(Envelope(Placed(), (TransportNamesStamp([]),)), **{"*": "all"}) == ()


def test_what_nothing_matches_goes_nowhere():
    assert route(Placed(), **{"order.shipped": "async"}) == ()


def test_an_explanation_names_the_rules():
    routing = Routing({"order.placed": ("async",), "*": ("all",)}, MessageTypes([Placed]), {"order.placed": Placed}.get)

    assert routing.explain(Placed) == [('routing key "order.placed"', ("async",))]
    assert routing.explain(Marked) == [('routing wildcard "*"', ("all",))]
