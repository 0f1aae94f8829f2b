"""Validates messages: before they are sent, and again before they are handled."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from bus.envelope import Envelope
from bus.errors import ConfigurationError, ValidationFailedError
from bus.middleware.base import CallNext
from bus.stamps import ReceivedStamp, ValidationStamp

# Yields what is wrong with a message, given the groups of its ValidationStamp.
Check: TypeAlias = Callable[[Any, Sequence[str]], Iterable[str]]


class ValidationMiddleware:
    """Asks a message's own ``validate()``, at dispatch and on consumption, and pydantic at dispatch.

    ``validate()`` raises a ValueError, or returns violations; None or nothing at all means valid. Where it has a
    parameter ``groups``, it gets those of the ValidationStamp. A pydantic model that comes from a transport was
    validated when it was decoded; one that is dispatched may have been changed, or made by ``model_construct``. What
    any other exception means, it means here: a database that cannot be asked is no violation.
    """

    def __init__(self) -> None:
        self._checks: dict[type, tuple[Check | None, Check | None]] = {}

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Pass a valid message on.

        Raises:
            ValidationFailedError: with every violation that was found.
        """
        cls = type(envelope.message)
        try:
            own, model = self._checks[cls]
        except KeyError:
            own, model = self._checks[cls] = _own_check(cls), _model_check(cls)
        if own is not None or model is not None:
            received = envelope.last(ReceivedStamp) is not None
            stamp = envelope.last(ValidationStamp)
            groups = stamp.groups if stamp is not None else ()
            _run([check for check in (None if received else model, own) if check is not None], envelope, groups)
        return call_next(envelope)


def _run(checks: Iterable[Check], envelope: Envelope, groups: Sequence[str]) -> None:
    for check in checks:
        try:
            violations = tuple(check(envelope.message, groups))
        except (ValueError, msgspec.ValidationError) as error:
            raise ValidationFailedError(envelope.message, tuple(_violations(error))) from error
        if violations:
            raise ValidationFailedError(envelope.message, violations)


def _own_check(cls: type) -> Check | None:
    """Return how to ask a class's own ``validate``; the deprecated one of pydantic is none."""
    owner = next((base for base in cls.__mro__ if "validate" in vars(base)), None)
    if owner is None or owner.__module__.partition(".")[0] == "pydantic":
        return None
    validate = getattr(cls, "validate")  # noqa: B009 - mypy knows no such attribute
    if inspect.iscoroutinefunction(validate):
        raise ConfigurationError(
            f'The method "validate" of the message "{cls.__qualname__}" is an "async def"; '
            "validation is synchronous: make it a plain method."
        )
    takes_groups = "groups" in inspect.signature(validate).parameters

    def check(message: Any, groups: Sequence[str]) -> Iterable[str]:
        found = message.validate(groups=tuple(groups)) if takes_groups else message.validate()
        if isinstance(found, str):
            return (found,)
        return tuple(map(str, found)) if isinstance(found, Iterable) else ()

    return check


def _model_check(cls: type) -> Check | None:
    """Return how to validate a pydantic model once more, field by field; models inside it are taken as they are."""
    if not hasattr(cls, "__pydantic_validator__") or not hasattr(cls, "model_validate"):
        return None

    def check(message: Any, groups: Sequence[str]) -> Iterable[str]:
        fields = {**vars(message), **(message.__pydantic_extra__ or {})}
        cls.model_validate(fields, by_name=True, by_alias=False, context={"groups": tuple(groups)})
        return ()

    return check


def _violations(error: Exception) -> Iterator[str]:
    """Yield one line per violation; pydantic's name the field."""
    if isinstance(error, ValidationFailedError):
        yield from error.violations
        return
    details = getattr(error, "errors", None)
    if not callable(details):
        yield str(error) or type(error).__name__
        return
    for each in details(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(part) for part in each["loc"])
        yield f"{place}: {each['msg']}" if place else str(each["msg"])
