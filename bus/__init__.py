"""A message bus for Python with the ideas and the vocabulary of Symfony Messenger.

import bus; bus.dispatch(OrderPlaced("o-1")) uses the default bus of the configuration that is found in the working
directory; Messenger.from_yaml("config/messenger.yaml").bus is the explicit way.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bus.amqp_stamps import AmqpReceivedStamp, AmqpStamp
from bus.deduplication import DeduplicatedStamp, DeduplicateStamp
from bus.envelope import Envelope
from bus.errors import (
    AccessDeniedError,
    BatchFailedError,
    BusError,
    ConfigurationError,
    ConnectionLostError,
    DecodingError,
    DelayedMessageHandlingError,
    DispatchManyError,
    EncodingError,
    HandlerFailedError,
    InProgressElsewhereError,
    MissingExtraError,
    MissingMessageIdError,
    NoHandlerError,
    NoSenderError,
    RecoverableError,
    SendFailedError,
    SendRefused,
    SendUnknown,
    TransportError,
    UnrecoverableError,
    ValidationFailedError,
    WorkerProcessesError,
)
from bus.handlers import handler
from bus.messages import UndecodableMessage, message
from bus.redispatch import RedispatchMessage
from bus.retry import RetryPolicy
from bus.stamps import (
    BusNameStamp,
    CausationStamp,
    CorrelationStamp,
    DelayStamp,
    DispatchAfterCurrentBusStamp,
    ErrorDetailsStamp,
    HandledStamp,
    HandlerArgumentsStamp,
    HeldStamp,
    MessageIdStamp,
    NonSendableStamp,
    PartitionKeyStamp,
    PriorityStamp,
    ReceivedStamp,
    RedeliveryStamp,
    SentStamp,
    SentToFailureTransportStamp,
    SqlReceivedStamp,
    Stamp,
    TransactionStamp,
    TransportMessageIdStamp,
    TransportNamesStamp,
    ValidationStamp,
    stamp,
)

if TYPE_CHECKING:
    from bus.config.schema import BusConfig, MessengerConfig, MiddlewareConfig, TransportConfig
    from bus.default_messenger import dispatch, dispatch_async, dispatch_many
    from bus.limits import Limits
    from bus.message_bus import MessageBus
    from bus.messenger import Messenger
    from bus.middleware.base import HandlerCall, HandlerMiddleware, Middleware
    from bus.middleware.idempotency import IdempotencyMiddleware
    from bus.store.base import Store
    from bus.store.memory import MemoryStore
    from bus.store.redis import RedisStore
    from bus.store.sql import SqlStore
    from bus.transports.amqp.topology import Binding, DeadLetter, Exchange, ExchangeType, Queue
    from bus.worker import Worker, WorkerOptions

# Names whose modules import much; they are looked up when they are first used (PEP 562).
_LAZY = {
    "Binding": "bus.transports.amqp.topology",
    "BusConfig": "bus.config.schema",
    "DeadLetter": "bus.transports.amqp.topology",
    "Exchange": "bus.transports.amqp.topology",
    "ExchangeType": "bus.transports.amqp.topology",
    "HandlerCall": "bus.middleware.base",
    "HandlerMiddleware": "bus.middleware.base",
    "IdempotencyMiddleware": "bus.middleware.idempotency",
    "Limits": "bus.limits",
    "MemoryStore": "bus.store.memory",
    "MessageBus": "bus.message_bus",
    "Messenger": "bus.messenger",
    "MessengerConfig": "bus.config.schema",
    "Middleware": "bus.middleware.base",
    "MiddlewareConfig": "bus.config.schema",
    "Queue": "bus.transports.amqp.topology",
    "RedisStore": "bus.store.redis",
    "SqlStore": "bus.store.sql",
    "Store": "bus.store.base",
    "TransportConfig": "bus.config.schema",
    "Worker": "bus.worker",
    "WorkerOptions": "bus.worker",
    "dispatch": "bus.default_messenger",
    "dispatch_async": "bus.default_messenger",
    "dispatch_many": "bus.default_messenger",
}

__all__ = [
    "AccessDeniedError",
    "AmqpReceivedStamp",
    "AmqpStamp",
    "BatchFailedError",
    "Binding",
    "BusConfig",
    "BusError",
    "BusNameStamp",
    "CausationStamp",
    "ConfigurationError",
    "ConnectionLostError",
    "CorrelationStamp",
    "DeadLetter",
    "DecodingError",
    "DeduplicateStamp",
    "DeduplicatedStamp",
    "DelayStamp",
    "DelayedMessageHandlingError",
    "DispatchAfterCurrentBusStamp",
    "DispatchManyError",
    "EncodingError",
    "Envelope",
    "ErrorDetailsStamp",
    "Exchange",
    "ExchangeType",
    "HandledStamp",
    "HandlerArgumentsStamp",
    "HandlerCall",
    "HandlerFailedError",
    "HandlerMiddleware",
    "HeldStamp",
    "IdempotencyMiddleware",
    "InProgressElsewhereError",
    "Limits",
    "MemoryStore",
    "MessageBus",
    "MessageIdStamp",
    "Messenger",
    "MessengerConfig",
    "Middleware",
    "MiddlewareConfig",
    "MissingExtraError",
    "MissingMessageIdError",
    "NoHandlerError",
    "NoSenderError",
    "NonSendableStamp",
    "PartitionKeyStamp",
    "PriorityStamp",
    "Queue",
    "ReceivedStamp",
    "RecoverableError",
    "RedeliveryStamp",
    "RedisStore",
    "RedispatchMessage",
    "RetryPolicy",
    "SendFailedError",
    "SendRefused",
    "SendUnknown",
    "SentStamp",
    "SentToFailureTransportStamp",
    "SqlReceivedStamp",
    "SqlStore",
    "Stamp",
    "Store",
    "TransactionStamp",
    "TransportConfig",
    "TransportError",
    "TransportMessageIdStamp",
    "TransportNamesStamp",
    "UndecodableMessage",
    "UnrecoverableError",
    "ValidationFailedError",
    "ValidationStamp",
    "Worker",
    "WorkerOptions",
    "WorkerProcessesError",
    "dispatch",
    "dispatch_async",
    "dispatch_many",
    "handler",
    "message",
    "stamp",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f'module "bus" has no attribute "{name}"')
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
