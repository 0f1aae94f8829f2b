"""Reads the options that are not plain values: exchanges, queues, dead letters, as YAML or Python gives them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeVar, cast

from bus.errors import did_you_mean, quoted
from bus.transports.amqp.topology import Arguments, Binding, DeadLetter, Exchange, ExchangeType, Queue

T = TypeVar("T")

# The values of PHP's AMQP_* constants.
_DURABLE: Final = 2
_PASSIVE: Final = 4
_AUTO_DELETE: Final = 16
_INTERNAL: Final = 32

# Symfony makes integers of these where a DSN or an environment variable gives text.
_WHOLE_NUMBERS: Final = frozenset(
    {"x-delay", "x-expires", "x-max-length", "x-max-length-bytes", "x-max-priority", "x-message-ttl"}
)
_KEEPS_WHAT_IT_HAS: Final = ("reject-publish", "reject-publish-dlx")
_LONGEST_NAME: Final = 200  # bytes of RabbitMQ's 255, so that the name of a delay queue fits behind it


def nested(query: Mapping[str, str]) -> dict[str, object]:
    """Return the query of a DSN with names such as ``queues[orders][flags]`` made maps."""
    result: dict[str, Any] = {}
    for name, value in query.items():
        first, *rest = re.split(r"\]?\[", name.removesuffix("]")) if "[" in name else [name]
        inner, key = result, first
        for part in rest:
            following = inner.setdefault(key, {})
            if not isinstance(following, dict):
                break
            inner, key = following, part or str(len(following))
        inner[key] = value
    return result


def read_exchange(value: object, *, default_name: str) -> Exchange:
    """Return the exchange of a transport. Raises ValueError that says what is wrong."""
    if isinstance(value, Exchange):
        return value
    fields = _fields(
        "exchange", value, ("name", "type", "default_publish_routing_key", "flags", "arguments", "bindings")
    )
    flags = _flags("exchange", fields.get("flags"), _DURABLE | _PASSIVE | _AUTO_DELETE | _INTERNAL)
    key = fields.get("default_publish_routing_key")
    return Exchange(
        name=_name("exchange", fields.get("name", default_name)),
        type=_exchange_type(fields.get("type", ExchangeType.FANOUT)),
        default_publish_routing_key=None if key is None else _text('option "default_publish_routing_key"', key),
        durable=bool(flags & _DURABLE),
        auto_delete=bool(flags & _AUTO_DELETE),
        internal=bool(flags & _INTERNAL),
        passive=bool(flags & _PASSIVE),
        arguments=_arguments("exchange", fields.get("arguments")),
        bindings=_bindings(fields.get("bindings")),
    )


def read_queues(value: object) -> Mapping[str, Queue]:
    """Return the queues of a transport by name. Raises ValueError that says what is wrong."""
    if not isinstance(value, Mapping) and value != []:
        raise ValueError('option "queues" must be a map of queues by name')
    queues = cast("Mapping[object, object]", value or {})
    return {_name("queue", name): _queue(f'queue "{name}"', each) for name, each in queues.items()}


def read_dead_letter(value: object) -> DeadLetter | None:
    """Return where rejected messages go, or None. Raises ValueError that says what is wrong."""
    if value is None or value is False or isinstance(value, DeadLetter):
        return value or None
    if value is True:
        return DeadLetter()
    fields = _fields("dead_letter", value, ("exchange", "queue"))
    return DeadLetter(**{key: _name(f'"{key}" of "dead_letter"', each) for key, each in fields.items()})


def _queue(subject: str, value: object) -> Queue:
    if isinstance(value, Queue):
        queue = value
    else:
        fields = _fields(subject, value, ("binding_keys", "binding_arguments", "flags", "arguments"))
        flags = _flags(subject, fields.get("flags"), _DURABLE | _PASSIVE | _AUTO_DELETE)
        queue = Queue(
            binding_keys=_keys(subject, fields.get("binding_keys")),
            binding_arguments=_arguments(subject, fields.get("binding_arguments")),
            durable=bool(flags & _DURABLE),
            auto_delete=bool(flags & _AUTO_DELETE),
            passive=bool(flags & _PASSIVE),
            arguments=_arguments(subject, fields.get("arguments")),
        )
    limits = {"x-max-length", "x-max-length-bytes"} & queue.arguments.keys()
    if limits and queue.arguments.get("x-overflow") not in _KEEPS_WHAT_IT_HAS:
        raise ValueError(
            f"{subject}: with {quoted(sorted(limits))} RabbitMQ drops the oldest messages of a full queue; "
            'add the argument "x-overflow: reject-publish", and a full queue refuses new ones instead'
        )
    return queue


def _bindings(value: object) -> tuple[Binding, ...]:
    """Read Symfony's map from the other exchange's name to its keys and arguments, or Bindings."""
    if isinstance(value, tuple | list) and all(isinstance(each, Binding) for each in value):
        return tuple(value)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError('"bindings" of "exchange" must be a map of other exchanges by name')
    bindings = []
    for name, each in (value or {}).items():
        subject = f'binding to exchange "{name}"'
        fields = _fields(subject, each, ("binding_keys", "binding_arguments"))
        arguments = _arguments(subject, fields.get("binding_arguments"))
        bindings += [
            Binding(exchange=_name("exchange", name), key=key, arguments=arguments)
            for key in _keys(subject, fields.get("binding_keys"))
        ]
    return tuple(bindings)


def _fields(subject: str, value: object, valid: Collection[str]) -> Mapping[str, object]:
    if value is None or value == []:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{subject} must be a map")
    for name in value:
        if name not in valid:
            raise ValueError(
                f'{subject} has no option "{name}"; options are: {quoted(sorted(valid))}'
                f"{did_you_mean(str(name), valid)}"
            )
    return value


def _exchange_type(value: object) -> str:
    valid = [each.value for each in ExchangeType]
    text = _text("the type of an exchange", value)
    if text not in valid and not text.startswith("x-"):  # types of plugins begin so
        raise ValueError(
            f'exchange type "{text}" does not exist; types are: {quoted(valid)}{did_you_mean(text, valid)}'
        )
    return text


def _flags(subject: str, value: object, known: int) -> int:
    if value is None:
        return _DURABLE
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value & ~known:
        raise ValueError(
            f"{subject}: flags are the sum of {_DURABLE} (durable), {_PASSIVE} (passive: it exists), "
            f'{_AUTO_DELETE} (auto-delete){", 32 (internal)" if known & _INTERNAL else ""}, not "{value}"'
        )
    return value


def _keys(subject: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ("",)
    values = value.values() if isinstance(value, Mapping) else value
    if isinstance(values, str) or not isinstance(values, Collection):
        raise ValueError(f'"binding_keys" of {subject} must be a list')
    return tuple(_text(f"a binding key of {subject}", each) for each in values)


def _arguments(subject: str, value: object) -> Arguments:
    if value is None or value == []:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"arguments of {subject} must be a map")
    return {
        str(name): int(each) if name in _WHOLE_NUMBERS and isinstance(each, str) and each.isdecimal() else each
        for name, each in value.items()
    }


def _name(subject: str, value: object) -> str:
    text = _text(f"the name of {subject}", value)
    if len(text.encode()) > _LONGEST_NAME:
        raise ValueError(f"the name of {subject} must have at most {_LONGEST_NAME} bytes")
    return text


def _text(subject: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{subject} must be a text")
    return value
