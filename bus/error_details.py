"""What is kept of an error: bounded, plain text, in the form that Symfony reads.

Whatever an exception does when it is looked at (a ``__str__`` that raises SystemExit or returns ten megabytes), looking
at it here does no harm. Nothing is kept beyond what a traceback shows: no values of local variables.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from bus.envelope import Envelope
from bus.errors import HandlerFailedError
from bus.stamps import ErrorDetailsStamp

LONGEST_MESSAGE: Final = 8 * 1024  # bytes of UTF-8
KEPT_ERRORS: Final = 10  # per message

_PACKAGE: Final = f"{Path(__file__).parent}{os.sep}"
_LONGEST_NAME: Final = 255
_LONGEST_INNER_MESSAGE: Final = 2 * 1024
_LONGEST_TRACE: Final = 4 * 1024
_LONGEST_FLAT: Final = 12 * 1024  # bytes of JSON
_FRAMES: Final = 10
_CHAIN: Final = 3  # an error and its causes


def error_details(error: BaseException) -> ErrorDetailsStamp:
    """Describe an error. Of a HandlerFailedError the first handler's error is described, as in Symfony."""
    error = first_cause(error)
    try:
        code, flat = _code(error), _bounded_flat(error)
    except BaseException:  # noqa: BLE001 - an error whose own attributes raise
        code, flat = 0, None
    return ErrorDetailsStamp(class_name(error), code, safe_text(error, LONGEST_MESSAGE), flat)


def first_cause(error: BaseException) -> BaseException:
    """Return what really failed: the error of the first handler, or the error itself."""
    while isinstance(error, HandlerFailedError) and error.errors:
        error = next(iter(error.errors.values()))
    return error


def application_traceback(error: BaseException) -> TracebackType | None:
    """Return the traceback without the frames of this package that lead to the application's code.

    Where there is none of the application's, it is returned whole.
    """
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        step = step.tb_next
    return step or error.__traceback__


def class_name(error: BaseException) -> str:
    """Return the class of an error as ``module.QualName``; what Python has built in bears no module."""
    kind = type(error)
    module: object = kind.__module__
    known = isinstance(module, str) and module != "builtins"
    name = f"{module}.{kind.__qualname__}" if known else kind.__qualname__
    return _bounded_text(name, _LONGEST_NAME)


def safe_text(error: BaseException, limit: int) -> str:
    """Return the text of an error in at most ``limit`` bytes of UTF-8."""
    try:
        # The text may be an instance of a subclass of str, with methods of its own.
        text = str.__str__(str(error))
    except BaseException:  # noqa: BLE001 - a hostile __str__ may raise anything, SystemExit included
        return "(its text cannot be read: __str__ raises)"
    return _bounded_text(text, limit)


def _bounded_text(text: str, limit: int) -> str:
    # A lone surrogate is no Unicode text: no other program could read it.
    encoded = text[:limit].encode("utf-8", "replace")
    if len(encoded) > limit or len(text) > limit:
        return encoded[: limit - 3].decode("utf-8", "ignore") + "..."
    return encoded.decode("utf-8")


def _code(error: BaseException) -> int:
    code = getattr(error, "errno", None) if isinstance(error, OSError) else None
    return code if isinstance(code, int) else 0


def _flatten(error: BaseException, depth: int, seen: set[int]) -> dict[str, object]:
    """Return Symfony's FlattenException; its reader needs message, class, file, line and status_text."""
    seen.add(id(error))
    before = _before(error)
    frames = traceback.extract_tb(application_traceback(error), limit=-_FRAMES)
    last = frames[-1] if frames else None
    return {
        "message": safe_text(error, _LONGEST_INNER_MESSAGE),
        "code": _code(error),
        "headers": [],
        "class": class_name(error),
        "file": last.filename if last else "",
        "line": (last.lineno or 0) if last else 0,
        "previous": _flatten(before, depth - 1, seen) if before and depth > 1 and id(before) not in seen else None,
        "status": 500,
        "status_text": "Internal Server Error",
        "trace": [_frame(frame) for frame in reversed(frames)],
        "trace_as_string": _trace_text(frames, error),
    }


def _before(error: BaseException) -> BaseException | None:
    """Return the error that led to this one: its cause, or the first one of a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _frame(frame: traceback.FrameSummary) -> dict[str, object]:
    return {
        "namespace": "",
        "short_class": "",
        "class": "",
        "type": "",
        "function": frame.name,
        "file": frame.filename,
        "line": frame.lineno or 0,
        "args": [],
    }


def _trace_text(frames: traceback.StackSummary, error: BaseException) -> str:
    head = "Traceback (most recent call last):\n" if frames else ""
    text = f"{head}{''.join(frames.format())}{class_name(error)}: {safe_text(error, _LONGEST_INNER_MESSAGE)}"
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= _LONGEST_TRACE:
        return encoded.decode("utf-8")
    # The end says where it happened and what.
    return "..." + encoded[3 - _LONGEST_TRACE :].decode("utf-8", "ignore")


def _bounded_flat(error: BaseException) -> Mapping[str, object] | None:
    flat = _flatten(error, _CHAIN, set())
    for smaller in (flat, {**flat, "previous": None}):
        if len(json.dumps(smaller)) <= _LONGEST_FLAT:
            return smaller
    return None


# --- the error history of a message ---


def with_error(envelope: Envelope, error: BaseException) -> Envelope:
    """Add an error to a message's history, unless it is the last one again; the last 10 are kept."""
    details = error_details(error)
    known = envelope.all(ErrorDetailsStamp)
    if known and _same(known[-1], details):
        return envelope
    if len(known) < KEPT_ERRORS:
        return envelope.with_(details)
    return envelope.without(ErrorDetailsStamp).with_(*known[1 - KEPT_ERRORS :], details)


def _same(one: ErrorDetailsStamp, other: ErrorDetailsStamp) -> bool:
    """Compare as Symfony does; where in the code it happened does not count."""
    return (one.exception_class, one.exception_code, one.exception_message) == (
        other.exception_class,
        other.exception_code,
        other.exception_message,
    )


def with_smaller_errors(envelope: Envelope) -> Iterator[Envelope]:
    """Yield the message with less and less of its error history.

    Older traces go first, then the last trace, then older errors; the last error's class and message stay.
    """
    errors = list(envelope.all(ErrorDetailsStamp))
    rest = envelope.without(ErrorDetailsStamp)
    for position, each in enumerate(errors):
        if each.flatten_exception is not None:
            errors[position] = replace(each, flatten_exception=None)
            yield rest.with_(*errors)
    while len(errors) > 1:
        errors = errors[1:]
        yield rest.with_(*errors)
