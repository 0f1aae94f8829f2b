"""What stands in an entry: Symfony's JSON object of body and headers, plain or as PHP wraps it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from bus import headers as header_names

FIELD: Final = "message"  # the one field of an entry

_BASE64 = "base64"
_PHP_STRING = re.compile(rb's:(\d{1,10}):"')


class _Written(msgspec.Struct):
    """The object as it should be."""

    body: str
    headers: dict[str, str]


_read = msgspec.json.Decoder(_Written).decode


def to_value(body: bytes, headers: Mapping[str, str], unique_id: str | None = None) -> bytes:
    """Return the value of the field; a body that is no text becomes base64, marked in a header.

    In a sorted set two equal values would be one: ``unique_id`` tells them apart, as Symfony's "uniqid" does.
    """
    marker = headers.get(header_names.BODY_ENCODING)
    text: str | None = None
    if marker is None:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            pass
    if text is None:
        # A header of that name from elsewhere stays behind the mark, so that it comes out as it went in.
        headers = {**headers, header_names.BODY_ENCODING: _BASE64 if marker is None else f"{_BASE64},{marker}"}
        text = base64.b64encode(body).decode("ascii")
    written: dict[str, object] = {"body": text, "headers": dict(headers)}
    if unique_id is not None:
        written["uniqid"] = unique_id
    try:
        return msgspec.json.encode(written)
    except UnicodeEncodeError:  # a lone surrogate, which the standard library writes as an escape
        return json.dumps(written).encode("ascii")


def from_value(value: bytes) -> tuple[bytes, Mapping[str, str]]:
    """Return body and headers of a value, whoever wrote it. Never raises: what is no such object is kept raw."""
    try:
        written = _read(value)
        body, headers = written.body.encode(), written.headers
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _odd(value)
    if header_names.BODY_ENCODING in headers:
        return _decoded(body, headers)
    return body, headers


def _odd(value: bytes) -> tuple[bytes, Mapping[str, str]]:
    unwrapped = _without_php(value)
    written = _json(unwrapped)
    if not isinstance(written, dict) or "body" not in written:
        return value, {}
    body, headers = written["body"], written.get("headers")
    raw = (body if isinstance(body, str) else json.dumps(body)).encode(errors="surrogatepass")
    if not headers:  # PHP writes an empty object as a list
        return raw, {}
    if not isinstance(headers, dict):
        return raw, {header_names.RAW_HEADERS: json.dumps(headers)}
    texts = {name: each if isinstance(each, str) else json.dumps(each) for name, each in headers.items()}
    return _decoded(raw, texts)


def _without_php(value: bytes) -> bytes:
    """Return what ``s:<bytes>:"...";`` holds; anything else, a wrong length included, is returned as it is."""
    begins = _PHP_STRING.match(value)
    if begins is None:
        return value
    end = begins.end() + int(begins[1])
    return value[begins.end() : end] if value[end:] == b'";' else value


def _decoded(body: bytes, headers: dict[str, str]) -> tuple[bytes, Mapping[str, str]]:
    mark, comma, original = headers.get(header_names.BODY_ENCODING, "").partition(",")
    if mark != _BASE64:
        return body, headers
    try:
        decoded = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return body, headers
    rest = {name: value for name, value in headers.items() if name != header_names.BODY_ENCODING}
    if comma:
        rest[header_names.BODY_ENCODING] = original
    return decoded, rest


def _json(text: bytes) -> object:
    """Return what a JSON text says, or None."""
    try:
        return json.loads(text)  # reads lone surrogates, which msgspec does not
    except (ValueError, RecursionError):
        return None
