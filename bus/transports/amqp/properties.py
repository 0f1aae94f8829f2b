"""What a message looks like in AMQP: its headers and properties, written and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from bus import headers as names
from bus.amqp_stamps import AmqpStamp
from bus.errors import SendRefused, did_you_mean, quoted
from bus.transports.amqp.connection import Properties, new_properties
from bus.transports.base import Outgoing

_PERSISTENT: Final = 2
_HIGHEST_PRIORITY: Final = 255
_LONGEST_SHORT: Final = 255  # bytes of what AMQP calls a short string
# All properties travel in one frame of at most 131,072 bytes, and a larger one ends the connection.
_MOST_BYTES: Final = 120_000
_PROPERTIES: Final = (
    "content_type",
    "content_encoding",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
)
# Facts of one delivery, by the bus or by RabbitMQ. A copy that bore CC would go to further queues.
_OF_ONE_DELIVERY: Final = frozenset(
    {
        *names.OF_ONE_DELIVERY,
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        "x-delivery-count",
        "x-acquired-count",
        "CC",
        "BCC",
    }
)
# What the bus writes anew whenever it writes a message.
_OURS: Final = (names.STAMP_PREFIX, names.BUS_PREFIX)
_OURS_WHOLE: Final = frozenset({names.TYPE, names.CONTENT_TYPE, names.TRACEPARENT})


def written(outgoing: Outgoing, now: float) -> Properties:
    """Return the properties of a message that begins its way. Raises SendRefused where they cannot be sent."""
    fields: dict[str, Any] = {
        "delivery_mode": _PERSISTENT,
        "timestamp": int(now),
        "message_id": _short(outgoing.message_id),
    }
    if outgoing.priority > 0:
        fields["priority"] = min(outgoing.priority, _HIGHEST_PRIORITY)
    headers = _headers_into(fields, outgoing)
    stamp = outgoing.native
    if isinstance(stamp, AmqpStamp):
        headers = _with_attributes(fields, headers, stamp.attributes)
    return new_properties(headers=headers, **fields)


def written_again(outgoing: Outgoing, received: Properties) -> Properties:
    """Return the properties of a message that goes back to where it came from: its own, with the new headers."""
    fields = {name: value for name in _PROPERTIES if (value := getattr(received, name)) is not None}
    fields["delivery_mode"] = _PERSISTENT
    fields["message_id"] = fields.get("message_id") or _short(outgoing.message_id)
    fields.pop("user_id", None)  # only the user that it names may publish it
    fields.pop("expiration", None)  # it has been delivered: from now on the retries decide
    headers = _headers_into(fields, outgoing)
    for name, value in (received.headers or {}).items():
        if name not in headers and not name.startswith(_OURS) and name not in _OF_ONE_DELIVERY | _OURS_WHOLE:
            headers[name] = value
    return new_properties(headers=_fitting(headers), **fields)


def copied(received: Properties, own: Mapping[str, object]) -> Properties:
    """Return the properties of a copy that stands for the original, with facts of its delivery of its own."""
    fields = {name: value for name in _PROPERTIES if (value := getattr(received, name)) is not None}
    fields["delivery_mode"] = _PERSISTENT
    fields.pop("user_id", None)
    kept = {name: value for name, value in (received.headers or {}).items() if name not in _OF_ONE_DELIVERY}
    return new_properties(headers=_fitting({**kept, **own}), **fields)


def headers_of(properties: Properties) -> dict[str, str]:
    """Return the headers of a message as text, without the facts of its delivery."""
    headers: dict[str, str] = {}
    raw = properties.headers
    if raw:
        for name, value in raw.items():
            if name not in _OF_ONE_DELIVERY:
                headers[name] = value if type(value) is str else _as_text(value)
    if properties.content_type is not None and names.CONTENT_TYPE not in headers:
        headers[names.CONTENT_TYPE] = properties.content_type
    return headers


def identity_of(properties: Properties, body: bytes) -> str:
    """Return what names a message: its message id, else what it consists of."""
    if properties.message_id is not None:
        return str(properties.message_id)
    return hashlib.sha1(repr(headers_of(properties)).encode() + body, usedforsecurity=False).hexdigest()


def number_in(properties: Properties, header: str) -> int:
    """Return a count that the bus wrote into a header; 0 where there is none, or no count."""
    value = (properties.headers or {}).get(header)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _headers_into(fields: dict[str, Any], outgoing: Outgoing) -> dict[str, Any]:
    headers: dict[str, Any] = dict(outgoing.headers)
    content_type = headers.get(names.CONTENT_TYPE)
    if content_type is not None and _short(content_type) is not None:
        fields["content_type"] = headers.pop(names.CONTENT_TYPE)
    else:
        fields.pop("content_type", None)
    if outgoing.attempt:
        headers[names.RETRY_COUNT] = outgoing.attempt
    return headers


def _with_attributes(
    fields: dict[str, Any], headers: dict[str, Any], attributes: Mapping[str, object]
) -> dict[str, Any]:
    """Put an AmqpStamp's properties in; return the headers with its own ones."""
    for name, value in attributes.items():
        if name == "headers" and isinstance(value, Mapping):
            headers = {**value, **headers}
        elif name in _PROPERTIES:
            fields[name] = value
        else:
            raise SendRefused(
                f'An AmqpStamp has the attribute "{name}"; valid ones are: {quoted(("headers", *_PROPERTIES))}'
                f"{did_you_mean(name, _PROPERTIES)}"
            )
    return _fitting(headers)


def _fitting(headers: dict[str, Any]) -> dict[str, Any]:
    size = sum(len(name) + len(str(value).encode(errors="surrogatepass")) for name, value in headers.items())
    if size > _MOST_BYTES:
        raise SendRefused(f"The message has {size} bytes of headers, and RabbitMQ takes {_MOST_BYTES}.")
    return headers


def _short(text: str) -> str | None:
    """Return a text that AMQP can take as a short string, or None."""
    return text if len(text.encode(errors="surrogatepass")) <= _LONGEST_SHORT else None


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return json.dumps(value, default=str)
