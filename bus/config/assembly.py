"""Turns checked values into the frozen model: names of Symfony become ours, and defaults come last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bus.config.nodes import Report, below, is_name
from bus.config.rate_limiters import MissingKeyError, rate_limit
from bus.config.schema import BusConfig, MessengerConfig, MiddlewareConfig, TransportConfig
from bus.errors import ConfigurationError
from bus.rate_limit import RateLimit
from bus.retry import RetryPolicy

T = TypeVar("T")

_SERVICE_PREFIX = "messenger.middleware."
_MIDDLEWARE = {"doctrine_transaction": "transaction", "deduplicate_middleware": "deduplicate"}

# Middleware of Symfony whose work needs no middleware here, and why.
_LEFT_OUT = {
    "doctrine_ping_connection": "connections are checked and opened again by the transport",
    "doctrine_close_connection": "connections are given back after each message",
    "doctrine_open_transaction_logger": "a transaction is opened and closed by the middleware transaction",
    "router_context": "there is no router here",
    "reject_redelivered_message_middleware": "a message that was delivered before is counted by its transport",
    "traceable": "there is no profiler here",
    "lock_middleware": "there is no lock here",
}

_SERIALIZERS = {
    "json": "json",
    "messenger.transport.symfony_serializer": "json",
    "messenger.transport.json_serializer": "json",
    "messenger.transport.serializer": "json",
}
_PHP_SERIALIZERS = ("messenger.transport.native_php_serializer", "messenger.default_serializer")


class Assembly:
    """Assembles one configuration, and reports what the single values could not show."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._aliases: Mapping[str, str] = {}

    def config(self, values: Mapping[str, Any], connections: Mapping[str, str]) -> MessengerConfig:
        """Return the model of the values; ``connections`` are the defaults of those."""
        self._aliases = values.get("aliases", {})
        serializer = values.get("serializer", {}).get("default_serializer")
        given: dict[str, Any] = {
            "imports": tuple(values.get("imports", ())),
            "buses": self._each("buses", values, self._bus),
            "default_bus": values.get("default_bus"),
            "failure_transport": values.get("failure_transport"),
            "transports": self._each("transports", values, self._transport),
            "routing": {key: tuple(route.get("senders", ())) for key, route in values.get("routing", {}).items()},
            "rate_limiters": self._rate_limiters(values),
            "aliases": self._aliases,
            "connections": {**connections, **values.get("connections", {})},
            "store": values.get("store"),
            "serializer": serializer and self._serializer(serializer, "serializer.default_serializer"),
            "source": self._report.source,
            "locations": self._report.locations,
        }
        return MessengerConfig(**{key: value for key, value in given.items() if value is not None})

    @staticmethod
    def _each(path: str, values: Mapping[str, Any], build: Callable[[Mapping[str, Any], str], T]) -> dict[str, T]:
        return {name: build(each, below(path, name)) for name, each in values.get(path, {}).items()}

    def _bus(self, values: Mapping[str, Any], path: str) -> BusConfig:
        default = values.get("default_middleware", {})
        entries = (
            self._middleware(each, below(below(path, "middleware"), position))
            for position, each in enumerate(values.get("middleware", ()))
        )
        given: dict[str, Any] = {
            "default_middleware": default.get("enabled"),
            "allow_no_handlers": default.get("allow_no_handlers"),
            "allow_no_senders": default.get("allow_no_senders"),
            "middleware": tuple(each for each in entries if each is not None),
        }
        return BusConfig(**{key: value for key, value in given.items() if value is not None})

    def _middleware(self, values: Mapping[str, Any], path: str) -> MiddlewareConfig | None:
        if "id" not in values:
            self._report.missing(path, "id", 'a middleware needs one name: "name", {name: arguments}, or the key "id"')
            return None
        name = values["id"].removeprefix(_SERVICE_PREFIX)
        if name in _LEFT_OUT:
            self._report.note(path, f'the middleware "{name}" of Symfony is left out: {_LEFT_OUT[name]}')
            return None
        name = _MIDDLEWARE.get(name) or self._service(name, path, "middleware")
        arguments = values.get("arguments") or {}
        if isinstance(arguments, list):
            return MiddlewareConfig(name=name, positional=tuple(arguments))
        return MiddlewareConfig(name=name, arguments=arguments)

    def _transport(self, values: Mapping[str, Any], path: str) -> TransportConfig:
        if "dsn" not in values:
            self._report.missing(path, "dsn", 'a transport needs a DSN, such as "doctrine://default"')
        retry = dict(values.get("retry_strategy", {}))
        service = retry.pop("service", None)
        where = below(path, "retry_strategy")
        if service is not None and retry:
            self._report.error(where, '"service" cannot stand beside other keys of "retry_strategy"')
        serializer = values.get("serializer")
        given: dict[str, Any] = {
            "options": values.get("options"),
            "serializer": serializer and self._serializer(serializer, below(path, "serializer")),
            "retry": RetryPolicy(**retry),
            "retry_service": service and self._service(service, below(where, "service"), "retry strategy"),
            "failure_transport": values.get("failure_transport"),
            "rate_limiter": values.get("rate_limiter"),
            "outbox": values.get("outbox"),
            "max_deliveries": values.get("max_deliveries"),
        }
        set_values = {key: value for key, value in given.items() if value is not None}
        return TransportConfig(dsn=values.get("dsn", ""), **set_values)

    def _rate_limiters(self, values: Mapping[str, Any]) -> dict[str, RateLimit]:
        named = {each.get("rate_limiter") for each in values.get("transports", {}).values()}
        limits = {}
        for name, each in values.get("rate_limiter", {}).items():
            # The others belong to other parts of a Symfony application.
            if name in named:
                path = below("rate_limiter", name)
                try:
                    limit = rate_limit(each)
                except MissingKeyError as error:
                    self._report.missing(path, error.key, str(error))
                except ConfigurationError as error:
                    for problem in error.problems:
                        self._report.error(path, problem)
                else:
                    if limit is not None:
                        limits[name] = limit
                    else:
                        self._report.error(path, 'the policy "compound" is not for transports; they have one limit')
        return limits

    def _serializer(self, name: str, path: str) -> str:
        bare = name.removeprefix("@")
        if bare in _PHP_SERIALIZERS and bare not in self._aliases:
            what = (
                f'"{bare}" writes PHP\'s own format, which nothing but PHP can read; '
                'use "messenger.transport.symfony_serializer" on both sides'
            )
            self._report.error(path, what)
        return _SERIALIZERS.get(bare) or self._service(name, path, "serializer")

    def _service(self, name: str, path: str, kind: str) -> str:
        """Return the name of a service as ``aliases`` know it. A service id of PHP needs an entry there."""
        bare = name.removeprefix("@")
        if bare in self._aliases:
            return bare
        if not is_name(name):
            self._report.error(path, f'expected the name of a {kind}, or "module:factory"')
            return ""
        if name not in self._aliases and ("\\" in name or name != bare):
            what = f"the {kind} {self._report.value_at(path, name)} is a service of PHP"
            self._report.error(path, f'{what}; name its counterpart, "module:factory", under "aliases"')
        return name
