"""What stands in a row: times, bodies and headers as text that Symfony's statements can read and compare."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from bus import headers as header_names

# A claimed message stands far behind every due time, so that no range of waiting messages holds it and no PHP worker
# sees it. It says in the same place whether it was parked, because a dead worker cannot say so.
HELD: Final = "9999-12-30 00:00:00.000"
HELD_PARKED: Final = "9999-12-30 00:00:01.000"
PARKED: Final = "9999-12-31 00:00:00.000"

_LATEST_DUE = 253_370_764_799_999  # milliseconds: the end of the year 9998
_BASE64 = "base64"

_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


def time_text(milliseconds: int, *, whole_seconds: bool = False) -> str:
    """Return a UTC time as ``YYYY-MM-DD HH:MM:SS.mmm``.

    With a blank and not a "T": SQLite compares texts, and Symfony's have a blank. Without the fraction it is a prefix
    of the same time with one, so that texts of both kinds keep their order.
    """
    seconds, rest = divmod(min(milliseconds, _LATEST_DUE), 1000)
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    return text if whole_seconds else f"{text}.{rest:03d}"


def time_of(text: str) -> int:
    """Return the milliseconds since the epoch of a UTC time that ``time_text`` wrote, with a fraction or without."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def to_texts(body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return body and headers as the columns keep them; a body that is no text becomes base64, marked in a header."""
    marker = headers.get(header_names.BODY_ENCODING)
    if marker is None and b"\0" not in body:
        try:
            return body.decode(), _headers_text(headers)
        except UnicodeDecodeError:
            pass
    # A header of that name from elsewhere stays behind the mark, so that it comes out as it went in.
    mark = _BASE64 if marker is None else f"{_BASE64},{marker}"
    marked = {**headers, header_names.BODY_ENCODING: mark}
    return base64.b64encode(body).decode("ascii"), _headers_text(marked)


def from_texts(body: bytes | str | float, headers: bytes | str | float) -> tuple[bytes, Mapping[str, str]]:
    """Return body and headers of a row, whoever wrote it. Never raises: what is no header object is kept raw."""
    raw_body = body if isinstance(body, bytes) else _bytes(body)
    fields = _headers(headers if isinstance(headers, bytes) else _bytes(headers))
    marker = fields.get(header_names.BODY_ENCODING)
    if marker is None:
        return raw_body, fields
    mark, comma, original = marker.partition(",")
    if mark != _BASE64:
        return raw_body, fields
    try:
        decoded = base64.b64decode(raw_body, validate=True)
    except (binascii.Error, ValueError):
        return raw_body, fields
    del fields[header_names.BODY_ENCODING]
    if comma:
        fields[header_names.BODY_ENCODING] = original
    return decoded, fields


def _headers_text(headers: Mapping[str, str]) -> str:
    try:
        return msgspec.json.encode(headers).decode()
    except UnicodeEncodeError:  # a lone surrogate, which the standard library writes as an escape
        return json.dumps(dict(headers))


def _headers(text: bytes) -> dict[str, str]:
    try:
        return _decode_headers(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _odd_headers(text)


def _odd_headers(text: bytes) -> dict[str, str]:
    fields = _json(text)
    if fields == []:  # PHP's way to write an empty object
        return {}
    if not isinstance(fields, dict):
        return {header_names.RAW_HEADERS: text.decode(errors="backslashreplace")}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}


def _json(text: bytes) -> object:
    """Return what a JSON text says, or None."""
    try:
        return json.loads(text)  # reads lone surrogates, which msgspec does not
    except (ValueError, RecursionError):
        return None


def _bytes(value: str | float) -> bytes:
    return str(value).encode(errors="surrogateescape")
