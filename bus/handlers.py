"""Handlers: how they are marked, described, looked up and called."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar, overload

from bus.durations import parse_duration
from bus.envelope import Envelope
from bus.errors import ConfigurationError, UnrecoverableError
from bus.handler_arguments import Arguments, BatchArguments, Container, alternatives, list_item
from bus.messages import main_module_name
from bus.stamps import HandledBySyncTransportStamp, ReceivedStamp

F = TypeVar("F", bound=Callable[..., Any])

MARK = "__bus_handlers__"

_BATCH_SIZE: Final = 100
_BATCH_WAIT: Final = "1s"


@dataclass(frozen=True, slots=True)
class HandlerOptions:
    """What ``@handler`` says of a handler. None or empty: no restriction, taken from the signature."""

    bus: str | None = None
    from_transport: str | None = None
    handles: tuple[type, ...] = ()
    method: str | None = None
    priority: int = 0
    alias: str | None = None
    batch_size: int | None = None
    batch_wait: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BatchOptions:
    """How a handler of a list of messages is called.

    Attributes:
        size: how many messages at most.
        wait: how many seconds after the first one at the latest.
        invoke: calls the handler with these messages; returns the result, or a coroutine when it is async.
    """

    size: int
    wait: float
    invoke: Callable[[Sequence[Envelope]], Any]


@dataclass(frozen=True, slots=True, eq=False)
class HandlerDescriptor:
    """A handler, ready to be called. ``invoke`` returns the result, or a coroutine when ``is_async``.

    ``batch`` says how a handler of a list collects its messages; ``invoke`` hands it a list of one.
    """

    name: str
    handles: tuple[type, ...]
    invoke: Callable[[Envelope], Any]
    is_async: bool
    options: HandlerOptions
    arguments: Arguments
    batch: BatchOptions | None = None

    def takes(self, envelope: Envelope) -> bool:
        """Tell whether the handler wants messages that came the way this one came."""
        wanted = self.options.from_transport
        if wanted is None:
            return True
        stamp = envelope.last(HandledBySyncTransportStamp) or envelope.last(ReceivedStamp)
        return stamp is not None and stamp.transport_name == wanted


@overload
def handler(target: F, /) -> F: ...
@overload
def handler(
    *,
    bus: str | None = None,
    from_transport: str | None = None,
    handles: type | Sequence[type] = (),
    method: str | None = None,
    priority: int = 0,
    alias: str | None = None,
    batch_size: int | None = None,
    batch_wait: str | None = None,
) -> Callable[[F], F]: ...
def handler(
    target: F | None = None,
    /,
    *,
    bus: str | None = None,
    from_transport: str | None = None,
    handles: type | Sequence[type] = (),
    method: str | None = None,
    priority: int = 0,
    alias: str | None = None,
    batch_size: int | None = None,
    batch_wait: str | None = None,
) -> F | Callable[[F], F]:
    """Mark a function, method or class with ``__call__`` as a handler of the message that its first parameter names.

    It only marks: a messenger knows the handler once its module stands under ``imports``. A mark may be repeated with
    another ``alias``.

    Args:
        target: what is marked, when used without parentheses.
        bus: handle messages of this bus only.
        from_transport: handle messages that came from this transport only.
        handles: the message types, instead of the annotation's.
        method: the method of a marked class, instead of ``__call__``.
        priority: handlers with a higher number run first.
        alias: tells two handlers of one function apart: the name becomes ``module.qualname@alias``.
        batch_size: of a handler whose first parameter is a ``list[...]``: how many messages at most; 100 by default.
        batch_wait: how long after the first message it is called at the latest, such as "100ms"; "1s" by default.
    """
    options = HandlerOptions(
        bus,
        from_transport,
        (handles,) if isinstance(handles, type | str) else tuple(handles),
        method,
        priority,
        alias,
        batch_size,
        batch_wait,
    )

    def mark(marked: F) -> F:
        setattr(marked, MARK, (*marks_of(marked), options))
        return marked

    return mark(target) if target is not None else mark


def marks_of(target: object) -> tuple[HandlerOptions, ...]:
    """Return what ``@handler`` says of exactly this function or class; a class does not inherit its parent's marks."""
    found = vars(target).get(MARK, ()) if isinstance(target, type) else getattr(target, MARK, ())
    return found if isinstance(found, tuple) else ()


def describe(target: Any, container: Container | None = None) -> Iterator[HandlerDescriptor]:
    """Describe every handler of a function, bound method, callable object or class.

    A class is built when the first message reaches one of its handlers, by the container if there is one.

    Raises:
        ConfigurationError: no message type can be read from the signature, or a parameter that nothing can fill.
    """
    if not isinstance(target, type):
        if not callable(target):
            raise ConfigurationError(
                f'An object of "{type(target).__module__}.{type(target).__qualname__}" is no handler, for it cannot be '
                "called; name its method, or its class."
            )
        for options in marks_of(target) or (HandlerOptions(),):
            yield _descriptor(target, target, options, container, bound=True)
        return
    instance = functools.cache(lambda: container.get(target) if container is not None else target())
    for options in marks_of(target):
        yield _of_method(target, instance, options.method or "__call__", options, container)
    for name, options in _marked_methods(target):
        yield _of_method(target, instance, name, options, container)


def _marked_methods(cls: type) -> Iterator[tuple[str, HandlerOptions]]:
    """Yield the methods of a class that bear marks; on a static or class method the mark may stand above or below."""
    for name, member in inspect.getmembers(cls, inspect.isroutine):
        for options in marks_of(member) or marks_of(inspect.getattr_static(cls, name)):
            yield name, options


def _of_method(
    cls: type, instance: Callable[[], Any], method: str, options: HandlerOptions, container: Container | None
) -> HandlerDescriptor:
    function: Any = getattr(cls, method, None)
    if isinstance(inspect.getattr_static(cls, method, None), staticmethod | classmethod):
        return _descriptor(function, function, options, container, bound=True)
    if not inspect.isfunction(function):
        raise ConfigurationError(
            f'The handler class "{cls.__module__}.{cls.__qualname__}" has no method "{method}"; '
            "define it, or name another one with @handler(method=...)."
        )

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(instance(), method)(*args, **kwargs)

    return _descriptor(function, call, options, container, bound=False)


def _descriptor(
    function: Any,
    call: Callable[..., Any],
    options: HandlerOptions,
    container: Container | None,
    *,
    bound: bool,
) -> HandlerDescriptor:
    """``function`` is what the signature is read from, ``call`` what is called."""
    code = _code_of(function)
    module = code.__module__
    if module == "__main__":
        module = main_module_name() or module
    name = f"{module}.{code.__qualname__}" + (f"@{options.alias}" if options.alias else "")
    _check(name, code, options)
    parameters = _parameters(name, function, code, bound=bound)
    of_list = list_item(parameters[0][1])
    first = parameters[0] if of_list is None else (parameters[0][0], of_list)
    handled = options.handles or tuple(_message_types(name, *first))
    takes_any = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values())
    if of_list is not None:
        return _batch_descriptor(name, handled, call, parameters, options, container, is_async=_is_async(code))
    if options.batch_size is not None or options.batch_wait is not None:
        raise ConfigurationError(
            f'The handler "{name}" has a batch_size or batch_wait and takes single messages; '
            f'annotate "{parameters[0][0].name}" as a list of them.'
        )
    arguments = Arguments.of(name, parameters[1:], container, takes_any=takes_any)
    invoke = _invocation(call, arguments)
    return HandlerDescriptor(name, handled, invoke, _is_async(code), options, arguments)


def _batch_descriptor(
    name: str,
    handled: tuple[type, ...],
    call: Callable[..., Any],
    parameters: Sequence[tuple[inspect.Parameter, Any]],
    options: HandlerOptions,
    container: Container | None,
    *,
    is_async: bool,
) -> HandlerDescriptor:
    size = _BATCH_SIZE if options.batch_size is None else options.batch_size
    if size < 1:
        raise ConfigurationError(f'The batch_size of handler "{name}" is {size}; it must be at least 1.')
    try:
        wait = parse_duration(str(_BATCH_WAIT if options.batch_wait is None else options.batch_wait)) / 1000
    except ConfigurationError as error:
        raise ConfigurationError(f'The batch_wait of handler "{name}": {error}') from None
    arguments = BatchArguments.of(name, parameters[1:], container)

    def invoke(envelopes: Sequence[Envelope]) -> Any:
        return call([each.message for each in envelopes], **arguments.values(envelopes))

    return HandlerDescriptor(
        name,
        handled,
        lambda envelope: invoke((envelope,)),
        is_async,
        options,
        Arguments({}, frozenset()),
        BatchOptions(size, wait, invoke),
    )


def _check(name: str, code: Any, options: HandlerOptions) -> None:
    """Refuse what would be called and yet not do its work, and options of the wrong kind."""
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise ConfigurationError(
            f'The handler "{name}" contains a "yield", so that a call only makes a generator, which nobody runs; '
            "let it do its work without."
        )
    for each in options.handles:
        if not isinstance(each, type):
            raise ConfigurationError(
                f'The handler "{name}" handles {each!r}, which is no class; name the class itself.'
            )
    for option, value in (("priority", options.priority), ("batch_size", options.batch_size)):
        if value is not None and not isinstance(value, int):
            raise ConfigurationError(f'The {option} of handler "{name}" is {value!r}; it must be a whole number.')


def _code_of(function: Any) -> Any:
    """Return the plain function behind a partial, bound method or callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return inspect.unwrap(getattr(function, "__func__", function))
    return type(function).__call__


def _is_async(code: Any) -> bool:
    return inspect.iscoroutinefunction(code)


def _parameters(name: str, function: Any, code: Any, *, bound: bool) -> list[tuple[inspect.Parameter, Any]]:
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(code)
    except (NameError, TypeError, ValueError) as error:
        raise ConfigurationError(f'The signature of handler "{name}" cannot be read: {error}') from error
    parameters = [
        (parameter, hints.get(parameter.name, parameter.annotation))
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if not bound:
        parameters = parameters[1:]
    if not parameters or parameters[0][0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ConfigurationError(f'The handler "{name}" takes no message; give it a first parameter.')
    return parameters


def _message_types(name: str, parameter: inspect.Parameter, annotation: Any) -> Iterator[type]:
    for each in alternatives(annotation):
        cls = typing.get_origin(each) or each
        # Any is a class in Python 3.11, and no message is one of it.
        if not isinstance(cls, type) or cls in (object, typing.Any, inspect.Parameter.empty, type(None)):
            raise ConfigurationError(
                f'The first parameter "{parameter.name}" of handler "{name}" names no message class; '
                "annotate it with one, or use @handler(handles=...)."
            )
        if getattr(cls, "_is_protocol", False) and not getattr(cls, "_is_runtime_protocol", False):
            raise ConfigurationError(
                f'The handler "{name}" takes the protocol "{cls.__qualname__}", which must be @runtime_checkable.'
            )
        try:
            issubclass(object, cls)
        except TypeError as error:
            raise ConfigurationError(
                f'The handler "{name}" takes "{cls.__qualname__}", and no class can be checked against it: {error}'
            ) from None
        yield cls


def refuse_coroutine(name: str, coroutine: types.CoroutineType[Any, Any, Any]) -> NoReturn:
    """Raise UnrecoverableError for a handler that returned a coroutine: its work would never be done."""
    coroutine.close()
    raise UnrecoverableError(
        f'The handler "{name}" is no "async def" and returned a coroutine, which nobody awaits; make it an "async def" '
        "that awaits it."
    )


def _invocation(call: Callable[..., Any], arguments: Arguments) -> Callable[[Envelope], Any]:
    if arguments.none:
        return lambda envelope: call(envelope.message)
    return lambda envelope: call(envelope.message, **arguments.values(envelope))


class HandlersLocator:
    """Finds the handlers of a message on one bus: those of its class, its parents, protocols and ABCs, by priority."""

    def __init__(self, descriptors: Iterable[HandlerDescriptor], bus_name: str) -> None:
        self.descriptors = tuple(
            sorted(
                (each for each in descriptors if each.options.bus in (None, bus_name)),
                key=lambda each: -each.options.priority,
            )
        )
        self._by_type: dict[type, tuple[HandlerDescriptor, ...]] = {}

    def of_type(self, cls: type) -> tuple[HandlerDescriptor, ...]:
        """Return the handlers of a message class, in the order in which they run."""
        found = self._by_type.get(cls)
        if found is None:
            found = tuple(each for each in self.descriptors if issubclass(cls, each.handles))
            self._by_type[cls] = found
        return found

    def needs_loop(self, cls: type) -> bool:
        """Tell whether one of the handlers of this class is an ``async def``, or waits until its batch is complete."""
        return any(each.is_async or each.batch is not None for each in self.of_type(cls))


def scan(module: types.ModuleType) -> Iterator[Any]:
    """Return everything in a module that bears a handler mark, or a class with a method that does."""
    for member in list(vars(module).values()):
        if isinstance(member, type):
            if member.__module__.partition(".")[0] in sys.stdlib_module_names:
                continue
            if marks_of(member) or any(_marked_methods(member)):
                yield member
        elif inspect.isroutine(member) and marks_of(member):
            yield member
