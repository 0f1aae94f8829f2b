"""What fills the parameters of a handler behind its message."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, Union

from bus.envelope import Envelope
from bus.errors import ConfigurationError, UnrecoverableError, did_you_mean, quoted
from bus.stamps import HandlerArgumentsStamp, Stamp

# What the middleware around a handler gives to its parameters, by their type. Named here, for a handler is described
# without importing the library that they come from.
RESOURCES: Final = frozenset({"sqlalchemy.engine.base.Connection", "sqlalchemy.orm.session.Session"})

given_resources: ContextVar[Mapping[type, Callable[[], object]] | None] = ContextVar(
    "bus_given_resources", default=None
)


class Container(Protocol):
    """Anything that hands out objects by type: a dependency injection container."""

    def get(self, wanted: type, /) -> Any:
        """Return an object of this type."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a handler behind its message, by name.

    Attributes:
        filled: parameters that the envelope, a stamp or the container fills.
        open: parameters that a HandlerArgumentsStamp may fill; None: any name will do.
        resources: parameters that only a middleware around the handler can fill.
    """

    filled: Mapping[str, Callable[[Envelope], Any]]
    open: frozenset[str] | None
    resources: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        handler: str,
        parameters: Sequence[tuple[inspect.Parameter, Any]],
        container: Container | None,
        *,
        takes_any: bool = False,
    ) -> Self:
        """Return what fills these parameters, each with its annotation, of the handler called so.

        Raises:
            ConfigurationError: nothing can fill one of them.
        """
        found = [_argument(handler, parameter, annotation, container) for parameter, annotation in parameters]
        filled = {each[0]: each[1] for each in found if each is not None}
        resources = () if container is not None else tuple(_resources(parameters))
        return cls(filled, None if takes_any else frozenset(_open(parameters)), resources)

    @property
    def none(self) -> bool:
        """Whether there never is one."""
        return not self.filled and self.open == frozenset()

    def values(self, envelope: Envelope) -> dict[str, Any]:
        """Return the arguments of one call."""
        stamp = envelope.last(HandlerArgumentsStamp) if self.open != frozenset() else None
        given = stamp.additional_arguments if stamp is not None else {}
        values = {name: fill(envelope) for name, fill in self.filled.items() if name not in given}
        values.update((name, value) for name, value in given.items() if self.open is None or name in self.open)
        return values


@dataclass(frozen=True, slots=True)
class BatchArguments:
    """The arguments behind the list of a batch handler: envelopes, and what the container has."""

    filled: Mapping[str, Callable[[Sequence[Envelope]], Any]]

    @classmethod
    def of(cls, handler: str, parameters: Sequence[tuple[inspect.Parameter, Any]], container: Container | None) -> Self:
        """Return what fills these parameters.

        Raises:
            ConfigurationError: nothing can fill one of them, or only something that each message has its own of.
        """
        filled: dict[str, Callable[[Sequence[Envelope]], Any]] = {}
        for parameter, annotation in parameters:
            if list_item(annotation) is Envelope:
                filled[parameter.name] = list
                continue
            kind = _only_class(annotation)
            if kind is not None and issubclass(kind, (Envelope, Stamp)):
                raise ConfigurationError(
                    f'The parameter "{parameter.name}" of batch handler "{handler}" belongs to one message; '
                    "a batch handler may ask for list[Envelope]."
                )
            found = _argument(handler, parameter, annotation, container)
            if found is not None:
                filled[parameter.name] = _of_the_first(found[1])
        return cls(filled)

    def values(self, envelopes: Sequence[Envelope]) -> dict[str, Any]:
        """Return the arguments of one call."""
        return {name: fill(envelopes) for name, fill in self.filled.items()}


def _of_the_first(fill: Callable[[Envelope], Any]) -> Callable[[Sequence[Envelope]], Any]:
    # The container hands out the same for each message.
    return lambda envelopes: fill(envelopes[0])


def list_item(annotation: Any) -> Any:
    """Return what a list is annotated to hold, or None where the annotation names no list."""
    if typing.get_origin(annotation) not in (list, Sequence):
        return None
    items = typing.get_args(annotation)
    return items[0] if items else None


def check_given(stamp: HandlerArgumentsStamp, handlers: Iterable[Arguments]) -> None:
    """Raise UnrecoverableError where the stamp has a name that no parameter of these handlers has."""
    known: set[str] = set()
    for arguments in handlers:
        if arguments.open is None:
            return
        known |= arguments.open
    for name in stamp.additional_arguments:
        if name not in known:
            raise UnrecoverableError(
                f'The HandlerArgumentsStamp gives "{name}", which no handler of the message takes'
                f"{did_you_mean(name, known)} (what it may give: {quoted(sorted(known))})."
            )


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return what a union names, or the annotation alone."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _argument(
    name: str, parameter: inspect.Parameter, annotation: Any, container: Container | None
) -> tuple[str, Callable[[Envelope], Any]] | None:
    """Return the name of a further parameter and what fills it, or None where its default does."""
    cls = _only_class(annotation)
    has_default = parameter.default is not parameter.empty
    if cls is not None:
        if cls is Envelope:
            return parameter.name, lambda envelope: envelope
        if issubclass(cls, Stamp):
            optional = has_default or type(None) in alternatives(annotation)
            return parameter.name, _stamp_argument(name, cls, optional=optional, default=parameter.default)
        if _is_resource(cls) and not has_default:
            return parameter.name, _resource_argument(name, cls, container)
        if container is not None and not has_default:
            return parameter.name, lambda _: container.get(cls)
    if has_default:
        return None
    raise ConfigurationError(
        f'Nothing can fill the parameter "{parameter.name}" of handler "{name}"; it may be an Envelope, a stamp, '
        "something with a default, or a type that the container has (there is "
        f"{'a' if container is not None else 'no'} container)."
    )


def _only_class(annotation: Any) -> type | None:
    """Return the one class that an annotation names beside None, or None where there is no such one."""
    wanted = [each for each in alternatives(annotation) if isinstance(each, type) and each is not type(None)]
    return wanted[0] if len(wanted) == 1 else None


def _open(parameters: Iterable[tuple[inspect.Parameter, Any]]) -> Iterator[str]:
    """Yield the names of the parameters that neither the envelope nor a stamp of it fills."""
    for parameter, annotation in parameters:
        cls = _only_class(annotation)
        if parameter.kind is not parameter.POSITIONAL_ONLY and (cls is None or not issubclass(cls, (Envelope, Stamp))):
            yield parameter.name


def _is_resource(cls: type) -> bool:
    return f"{cls.__module__}.{cls.__qualname__}" in RESOURCES


def _resources(parameters: Iterable[tuple[inspect.Parameter, Any]]) -> Iterator[str]:
    for parameter, annotation in parameters:
        cls = _only_class(annotation)
        if cls is not None and _is_resource(cls) and parameter.default is parameter.empty:
            yield parameter.name


def _resource_argument(name: str, cls: type, container: Container | None) -> Callable[[Envelope], Any]:
    def fill(_: Envelope) -> Any:
        make = (given_resources.get() or {}).get(cls)
        if make is not None:
            return make()
        if container is not None:
            return container.get(cls)
        raise UnrecoverableError(
            f'Nothing gives handler "{name}" the {cls.__name__} that it asks for: '
            'the bus that called it has no middleware "transaction".'
        )

    return fill


def _stamp_argument(name: str, cls: type[Stamp], *, optional: bool, default: Any) -> Callable[[Envelope], Any]:
    fallback = None if default is inspect.Parameter.empty else default

    def fill(envelope: Envelope) -> Any:
        stamp = envelope.last(cls)
        if stamp is None and not optional:
            raise UnrecoverableError(f'The message has no {cls.__name__}, which handler "{name}" asks for.')
        return fallback if stamp is None else stamp

    return fill
