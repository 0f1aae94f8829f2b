"""Builds the middleware of ours that has arguments, from what the configuration says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from bus.config.schema import BusConfig, MiddlewareConfig
from bus.config.wiring import Wiring
from bus.durations import parse_duration
from bus.errors import ConfigurationError, did_you_mean, quoted
from bus.middleware.base import HandlerMiddleware, Middleware
from bus.middleware.deduplicate import DeduplicateMiddleware
from bus.middleware.idempotency import IdempotencyMiddleware
from bus.retry import RetryPolicy

# The modules of ours, in the order in which they stand around a handler, outside the user's own.
OUTERMOST: Final = ("bus.middleware.idempotency", "bus.middleware.transaction")


def _idempotency(config: MiddlewareConfig, wiring: Wiring) -> HandlerMiddleware:
    given = _arguments(config, ("store", "ttl", "missing_id"))
    ttl = timedelta(milliseconds=parse_duration(given.pop("ttl"))) if "ttl" in given else None
    if ttl is not None:
        _must_outlast_the_retries(ttl, wiring)
    return IdempotencyMiddleware(wiring.stores.of(given.pop("store", None)), ttl, **given)


def _deduplicate(config: MiddlewareConfig, wiring: Wiring) -> Middleware:
    store = wiring.stores.of(_arguments(config, ("store",)).get("store"))
    return DeduplicateMiddleware(lambda: store)


def _transaction(config: MiddlewareConfig, wiring: Wiring) -> HandlerMiddleware:
    from bus.middleware.transaction import TransactionMiddleware
    from bus.transports.sql.options import DEFAULT_CONNECTION
    from bus.transports.sql.transactions import transactions_on

    given = _arguments(config, ("connection",))
    subject = 'The middleware "transaction"'
    dsn, outbox = wiring.outboxes.at(subject, given.get("connection", DEFAULT_CONNECTION))
    middleware = TransactionMiddleware(transactions_on(subject, dsn), outbox)
    wiring.closing.append(middleware.close)
    return middleware


FACTORIES: Final[Mapping[str, Callable[[MiddlewareConfig, Wiring], Middleware | HandlerMiddleware]]] = {
    "deduplicate": _deduplicate,
    "doctrine_transaction": _transaction,
    "idempotency": _idempotency,
    "transaction": _transaction,
}


def has_transaction(config: BusConfig) -> bool:
    """Tell whether the handlers of a bus run in a transaction."""
    return any(FACTORIES.get(each.name) is _transaction for each in config.middleware)


def _arguments(config: MiddlewareConfig, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments by name; those of Symfony's list form in the order of ``names``."""
    unknown = [each for each in config.arguments if each not in names]
    if unknown or len(config.positional) > len(names):
        hint = did_you_mean(unknown[0], names) if unknown else ""
        raise ConfigurationError(
            f'the middleware "{config.name}" has no argument {quoted(unknown) if unknown else "of that position"}; '
            f"its arguments are {quoted(names)}{hint}"
        )
    return {**dict(zip(names, config.positional, strict=False)), **config.arguments}


def _must_outlast_the_retries(ttl: timedelta, wiring: Wiring) -> None:
    """Raise where a message may still be tried again when it is forgotten that a handler is done with it."""
    for name, strategy in wiring.strategies.items():
        if isinstance(strategy, RetryPolicy):
            longest = timedelta(milliseconds=_span_of(strategy))
            if ttl <= longest:
                raise ConfigurationError(
                    f'the "ttl" of idempotency ({ttl}) is not longer than the retries of transport "{name}" '
                    f"may take ({longest}): a handler that is done would run again"
                )


def _span_of(policy: RetryPolicy) -> int:
    """Return the milliseconds that all retries of a message wait together, at most."""
    steady = RetryPolicy(
        max_retries=policy.max_retries,
        delay=policy.delay,
        multiplier=policy.multiplier,
        max_delay=policy.max_delay,
        jitter=0,
    )
    # Beyond so many, one more wait is either capped or longer than any ttl.
    waits = [steady.get_delay(attempt) for attempt in range(min(policy.max_retries, 1000))]
    return round(sum(waits) * (1 + policy.jitter))
