"""Headers and properties of a message in AMQP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bus import headers
from bus.amqp_stamps import AmqpStamp
from bus.errors import SendRefused
from bus.transports.amqp.connection import new_properties
from bus.transports.amqp.properties import copied, headers_of, number_in, written, written_again
from bus.transports.base import Outgoing

CAPTURES = Path(__file__).parents[3] / "wire" / "amqp.json"


def outgoing(fields: dict[str, str] | None = None, **other: Any) -> Outgoing:
    return Outgoing("id-1", b"{}", {"type": "App\\Ping", **(fields or {})}, **other)


def test_the_properties_are_those_of_symfony_and_the_message_id() -> None:
    properties = written(outgoing({"Content-Type": "application/json"}), 1795417807.9)

    assert properties.delivery_mode == 2
    assert properties.timestamp == 1795417807
    assert properties.content_type == "application/json"
    assert properties.message_id == "id-1"
    assert properties.headers == {"type": "App\\Ping"}
    assert properties.priority is None


def test_a_priority_is_one_that_amqp_has() -> None:
    assert written(outgoing(priority=7), 0).priority == 7
    assert written(outgoing(priority=1000), 0).priority == 255
    assert written(outgoing(priority=-1), 0).priority is None


def test_a_stamp_sets_properties_and_adds_headers_behind_the_messages_own() -> None:
    stamp = AmqpStamp("key", {"app_id": "shop", "content_type": "text/x", "headers": {"x-own": "v", "type": "forged"}})

    properties = written(outgoing({"Content-Type": "application/json"}, native=stamp), 0)

    assert (properties.app_id, properties.content_type) == ("shop", "text/x")
    assert properties.headers == {"x-own": "v", "type": "App\\Ping"}


def test_an_attribute_that_amqp_does_not_have_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SendRefused, match=r'attribute "app_idd".*did you mean "app_id"'):
        written(outgoing(native=AmqpStamp(attributes={"app_idd": "x"})), 0)


def test_headers_that_would_end_the_connection_are_refused() -> None:
    with pytest.raises(SendRefused, match="bytes of headers"):
        written(outgoing(native=AmqpStamp(attributes={"headers": {"x": "y" * 130_000}})), 0)


def test_a_retry_keeps_properties_and_foreign_headers_and_says_how_often_it_was_tried() -> None:
    received = new_properties(
        message_id="theirs",
        app_id="shop",
        priority=3,
        expiration="60000",
        headers={"x-own": "v", "type": "Old", "X-Message-Stamp-Old": "[]", "x-death": [{"count": 1}], "CC": ["other"]},
    )

    again = written_again(outgoing({"X-Message-Stamp-New": "[]"}, attempt=2), received)

    assert (again.message_id, again.app_id, again.priority, again.expiration) == ("theirs", "shop", 3, None)
    assert again.headers == {"type": "App\\Ping", "X-Message-Stamp-New": "[]", "x-own": "v", headers.RETRY_COUNT: 2}


def test_a_copy_bears_its_own_facts_of_delivery_and_none_of_the_originals() -> None:
    received = new_properties(headers={"type": "x", headers.DELIVERIES: "2", "x-death": [], "x-delivery-count": 4})

    copy = copied(received, {headers.DELIVERIES: "3"})

    assert copy.headers == {"type": "x", headers.DELIVERIES: "3"}


def test_headers_are_read_as_text_whatever_they_are() -> None:
    properties = new_properties(
        content_type="application/json",
        headers={"type": b"App\\Ping", "n": 5, "list": ["a"], "x-death": [], headers.RETRY_COUNT: 1},
    )

    assert headers_of(properties) == {
        "type": "App\\Ping",
        "n": "5",
        "list": '["a"]',
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize(
    ("value", "number"), [("3", 3), (3, 3), ("-1", 0), (-1, 0), (True, 0), ("1e9", 0), ("9" * 30, 0), (None, 0)]
)
def test_a_forged_count_counts_for_nothing(value: object, number: int) -> None:
    assert number_in(new_properties(headers={headers.DELIVERIES: value}), headers.DELIVERIES) == number


def test_what_symfony_sends_is_read() -> None:
    wire = next(each for each in json.loads(CAPTURES.read_text())["items"] if each["id"] == "plain")["wire"]
    properties = new_properties(headers=wire["headers"], **wire["properties"])

    assert headers_of(properties) == {**wire["headers"], "Content-Type": "application/json"}
