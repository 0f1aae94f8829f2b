"""The two stacks of a bus: what stands in them, in which order, and where the user's own middleware goes."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from bus.config.discovery import import_object
from bus.config.handler_middleware import FACTORIES, OUTERMOST, has_transaction
from bus.config.schema import BusConfig, MiddlewareConfig
from bus.config.wiring import Wiring
from bus.errors import ConfigurationError, describe, did_you_mean, quoted
from bus.handlers import HandlersLocator
from bus.message_bus import MessageBus
from bus.middleware.after_current_bus import AfterCurrentBusMiddleware
from bus.middleware.base import HandlerCall, Middleware
from bus.middleware.bus_name import BusNameMiddleware
from bus.middleware.deduplicate import DeduplicateMiddleware
from bus.middleware.default_stamps import DefaultStampsMiddleware
from bus.middleware.failed_message_processing import FailedMessageProcessingMiddleware
from bus.middleware.failure_transport import FailureTransportMiddleware
from bus.middleware.handle import HandleMiddleware
from bus.middleware.identity import IdentityMiddleware
from bus.middleware.retry import RetryMiddleware
from bus.middleware.send import SendMiddleware
from bus.middleware.validation import ValidationMiddleware

# What stands in Symfony's stacks for a reason that does not exist here.
WITHOUT_MEANING = ("reject_redelivered_message_middleware", "router_context", "traceable")


def build_bus(name: str, config: BusConfig, locator: HandlersLocator, wiring: Wiring) -> MessageBus:
    """Build a bus: the default middleware around the user's, the send and the handlers innermost.

    Raises:
        ConfigurationError: a middleware does not exist, is not there yet, or cannot be built.
    """
    own = [_own(each, wiring) for each in config.middleware if each.name not in WITHOUT_MEANING]
    around_handler = sorted((each for each in own if _is_around_handler(each)), key=_rank)
    _check_handlers_in_transactions(config, locator)
    built_in: dict[str, Middleware] = {
        "default_stamps": DefaultStampsMiddleware(),
        "bus_name": BusNameMiddleware(name),
        "after_current_bus": AfterCurrentBusMiddleware(wiring.routing, wiring.transports),
        "failed_message_processing": FailedMessageProcessingMiddleware(),
        "deduplicate": DeduplicateMiddleware(lambda: wiring.stores.of(None)),
        "send": SendMiddleware(wiring.routing, wiring.transports, allow_no_senders=config.allow_no_senders),
        "validation": ValidationMiddleware(),
        "handle": HandleMiddleware(locator, around_handler, allow_no_handlers=config.allow_no_handlers),
    }
    around_message = [built_in[each] if isinstance(each, str) else each for each in own if each not in around_handler]
    if not config.default_middleware and "handle" not in own:
        raise ConfigurationError('without its default middleware a bus needs "handle_message" in its list')

    def default(*names: str) -> list[Middleware]:
        return [built_in[each] for each in names] if config.default_middleware else []

    given_up_at = {each for each in wiring.failure_transports.values() if each is not None}
    # One that the list names, with a store of its own, takes the place of the default one.
    deduplicate = () if any(type(each) is DeduplicateMiddleware for each in own) else ("deduplicate",)
    # Identity, failure transport and retry stay even where the default middleware is switched off: in Symfony, too,
    # retries and the failure transport belong to the worker and not to the list.
    stack: list[Middleware] = [
        IdentityMiddleware(),
        *default("default_stamps", "bus_name", "after_current_bus"),
        FailureTransportMiddleware(wiring.failure_transports),
        RetryMiddleware(wiring.strategies, given_up_at),
        *default("failed_message_processing", *deduplicate),
        *around_message,
        *default("send", "handle"),
    ]
    return MessageBus(name, stack, locator)


_BUILT_IN = {
    "add_bus_name_stamp_middleware": "bus_name",
    "add_default_stamps_middleware": "default_stamps",
    "after_current_bus": "after_current_bus",
    "bus_name": "bus_name",
    "default_stamps": "default_stamps",
    "dispatch_after_current_bus": "after_current_bus",
    "failed_message_processing": "failed_message_processing",
    "failed_message_processing_middleware": "failed_message_processing",
    "handle": "handle",
    "handle_message": "handle",
    "send": "send",
    "send_message": "send",
    "validation": "validation",
}


def _own(config: MiddlewareConfig, wiring: Wiring) -> Any:
    """Return the name of a middleware of ours, or the user's middleware object."""
    if config.name in _BUILT_IN:
        return _BUILT_IN[config.name]
    path = wiring.aliases.get(config.name, config.name)
    if path in FACTORIES:
        return FACTORIES[path](config, wiring)
    if "." not in path and ":" not in path:
        ours = sorted({*_BUILT_IN, *FACTORIES})
        raise ConfigurationError(
            f'there is no middleware "{path}"{did_you_mean(path, ours)} (ours are {quoted(ours)}; '
            'one of yours is written "module:name")'
        )
    factory = import_object(path)
    if not callable(factory):
        raise ConfigurationError(f'the middleware "{path}" is no class or function')
    if not isinstance(factory, type) and not config.arguments and not config.positional and _is_middleware(factory):
        return factory
    try:
        if (
            wiring.container is not None
            and isinstance(factory, type)
            and not config.arguments
            and not config.positional
        ):
            return wiring.container.get(factory)
        return factory(*config.positional, **config.arguments)
    except Exception as error:
        raise ConfigurationError(f'the middleware "{path}" cannot be built: {describe(error)}') from error


def _check_handlers_in_transactions(config: BusConfig, locator: HandlersLocator) -> None:
    """Raise where a handler would run in a transaction that cannot: an ``async def``, or one of batches.

    There is no asynchronous session. The messages of a batch come together in one call, and a transaction belongs to
    one message: that of each would be open, and keep other writers out, until the batch is complete.
    """
    if not has_transaction(config):
        return
    asynchronous = [each.name for each in locator.descriptors if each.is_async]
    batches = [each.name for each in locator.descriptors if each.batch is not None and not each.is_async]
    problems = [
        f'the middleware "transaction" cannot stand around {kind} handlers, and this bus has {quoted(found)}; '
        f'{advice}, or give them another bus with @handler(bus="...")'
        for kind, found, advice in (
            ('"async def"', asynchronous, "make them plain functions"),
            ("batch", batches, "let them begin and commit a transaction of their own"),
        )
        if found
    ]
    if problems:
        raise ConfigurationError(*problems)


def _rank(middleware: Any) -> int:
    """Return where a middleware stands around a handler: ours in their order, then the user's in the list's."""
    module = type(middleware).__module__
    return OUTERMOST.index(module) if module in OUTERMOST else len(OUTERMOST)


def _is_middleware(function: Any) -> bool:
    """Tell a middleware function ``(envelope, call_next)`` from a factory of one."""
    return "call_next" in inspect.signature(function).parameters


def _is_around_handler(middleware: Any) -> bool:
    """Tell a middleware around one handler's call: its first parameter is a HandlerCall, or is called ``call``."""
    if isinstance(middleware, str):
        return False
    code = middleware if inspect.isroutine(middleware) else type(middleware).__call__
    parameters = [each for each in inspect.signature(code).parameters if each != "self"]
    try:
        annotation = typing.get_type_hints(code).get(parameters[0]) if parameters else None
    except NameError:
        annotation = None
    return annotation is HandlerCall or (annotation is None and parameters[:1] == ["call"])
