"""One message in full: for a person, and as JSON."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

from bus.cli.settings import Settings
from bus.stamps import ErrorDetailsStamp
from bus.waiting import WaitingMessage

# Characters that a person is shown; JSON has all.
_LONGEST_BODY = 4096
_LONGEST_HEADER = 200


def time_text(moment: datetime | None) -> str | None:
    """Return a time to the second, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else None


def print_details(settings: Settings, message: WaitingMessage) -> None:
    """Print everything about a message; with ``-vv`` the traces of its errors and its headers."""
    output = settings.output
    output.details(
        [
            ("id", message.id),
            ("class", message.type_name),
            ("transport", message.transport_name),
            ("id there", str(message.transport_id)),
            ("state", message.state),
            ("came from", message.came_from),
            ("origin", message.origin),
            ("failed at" if message.came_from else "put back at", time_text(message.redelivered_at)),
            ("not decoded", message.undecodable_reason),
            *(("error", f"{each.exception_class}: {each.exception_message}") for each in message.errors),
        ]
    )
    if settings.verbosity > 1:
        for each in message.errors:
            output.block(_trace(each) or f"{each.exception_class}: no trace was kept")
        output.details((name, value[:_LONGEST_HEADER]) for name, value in sorted(message.headers.items()))
    output.block(_body_text(message.body))
    output.line()


def as_json(message: WaitingMessage) -> dict[str, object]:
    """Return everything about a message. The body is its JSON, else text, else base64."""
    return {
        "id": message.id,
        "type": message.type_name,
        "transport": message.transport_name,
        "transport_id": message.transport_id,
        "state": message.state,
        "came_from": message.came_from,
        "origin": message.origin,
        "at": time_text(message.redelivered_at),
        "undecodable_reason": message.undecodable_reason,
        "errors": [_error_as_json(each) for each in message.errors],
        **_body_as_json(message.body),
        "headers": dict(message.headers),
    }


def _error_as_json(error: ErrorDetailsStamp) -> dict[str, object]:
    return {
        "class": error.exception_class,
        "code": error.exception_code,
        "message": error.exception_message,
        "trace": _trace(error),
    }


def _trace(error: ErrorDetailsStamp) -> str | None:
    trace = (error.flatten_exception or {}).get("trace_as_string")
    return str(trace) if trace else None


def _body_as_json(body: bytes) -> dict[str, object]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}
    try:
        value = json.loads(text, parse_constant=_refuse)
        # Deep nesting that can be read cannot always be written, and this stands some levels deep in the output.
        json.dumps([[[[value]]]], indent=2)
    except (ValueError, RecursionError):
        return {"body_text": text}
    return {"body": value}


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _body_text(body: bytes) -> str:
    shown = _body_as_json(body)
    if "body" in shown:
        text = json.dumps(shown["body"], ensure_ascii=False, indent=2)
    else:
        text = body.decode(errors="backslashreplace")
    if len(text) > _LONGEST_BODY:
        return f"{text[:_LONGEST_BODY]}\n... {len(text):,} characters in all; --format json shows them"
    return text
