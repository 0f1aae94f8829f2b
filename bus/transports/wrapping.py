"""A wrapper: headers that are too large for the header budget travel in the body, in front of the real one.

The wrapper's body is one line of JSON, the original headers, and behind its line feed the original body as it came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from bus import headers
from bus.serializer import EncodedEnvelope

# Headers travel in one AMQP frame of 128 KiB, and beside them other headers of the broker's own (RELIABILITY 0.9).
HEADER_BUDGET = 32 * 1024

_FRAMING = 8
_LONGEST_KEPT = 255
_KEPT = (headers.TYPE, headers.MESSAGE_ID, headers.PARTITION_KEY)


def fits(fields: Mapping[str, str]) -> bool:
    """Tell whether headers fit into the budget."""
    characters = sum(map(len, fields)) + sum(map(len, fields.values())) + _FRAMING * len(fields)
    # A character has at most four bytes: mostly there is nothing to count.
    return characters * 4 <= HEADER_BUDGET or size_of(fields) <= HEADER_BUDGET


def size_of(fields: Mapping[str, str]) -> int:
    """Return the bytes that headers take up, with the few that a broker adds to frame each of them."""
    return sum(_bytes_in(name) + _bytes_in(value) + _FRAMING for name, value in fields.items())


def wrap(encoded: EncodedEnvelope) -> EncodedEnvelope:
    """Move all headers into the body. The type, the message id and the partition key stay visible as well."""
    kept = {name: value for name in _KEPT if (value := encoded.headers.get(name)) and len(value) <= _LONGEST_KEPT}
    head = json.dumps(dict(encoded.headers), separators=(",", ":")).encode("ascii")
    return EncodedEnvelope(head + b"\n" + encoded.body, {**kept, headers.WRAPPED: "1"})


def unwrap(body: bytes, fields: Mapping[str, str]) -> EncodedEnvelope:
    """Return the original of a wrapper; anything else, and a broken wrapper, comes back as it is."""
    if headers.WRAPPED in fields:
        head, newline, original = body.partition(b"\n")
        try:
            inner = json.loads(head) if newline else None
        except (ValueError, RecursionError):
            inner = None
        if isinstance(inner, dict) and all(isinstance(value, str) for value in inner.values()):
            return EncodedEnvelope(original, inner)
    return EncodedEnvelope(body, fields)


def _bytes_in(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
