"""The grammar of the configuration: every key, what it may be, its unit and its default.

Symfony's keys keep Symfony's names, units and defaults. Its keys without meaning here are read and noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bus.config.keys import (
    Decimal,
    Duration,
    Flag,
    Free,
    Keys,
    ListOf,
    MapOf,
    Short,
    Spec,
    Text,
    Whole,
    under,
)
from bus.config.nodes import Node
from bus.config.placeholders import has_placeholder
from bus.config.rate_limiters import RATE_LIMITERS
from bus.config.schema import BusConfig, MessengerConfig, TransportConfig
from bus.retry import RetryPolicy

_RETRY = RetryPolicy()
_BUS = BusConfig()
_TRANSPORT = TransportConfig(dsn="")

# Transports without a broker behind them.
_IN_PROCESS = ("in-memory:", "sync:")


def _always(sentence: str) -> Spec:
    return Free(doc=f"Symfony's; {sentence}.", note=lambda _: sentence)


def _signals_note(value: object) -> str | None:
    given = {str(each).removeprefix("SIG") for each in value} if isinstance(value, list) else set()
    if given <= {"TERM", "INT", "15", "2"}:
        return None
    return "workers here stop on SIGTERM and SIGINT, and on no other signal"


def _context_note(value: object) -> str | None:
    return "the context of Symfony's serializer has no meaning here" if value else None


def _default_middleware(node: Node) -> Node:
    if node.value == "allow_no_handlers":
        allowed = replace(node, value=True, key_mark=None)
        return Node({"enabled": allowed, "allow_no_handlers": allowed}, node.mark, node.key_mark)
    if isinstance(node.value, str) and not has_placeholder(node.value):
        return node
    return under("enabled")(node)


def _middleware_entry(node: Node) -> Node:
    """Turn ``name`` and ``{name: arguments}`` into ``{id: name, arguments: arguments}``."""
    value = node.value
    if isinstance(value, dict) and len(value) == 1 and not value.keys() & {"id", "arguments"}:
        name, arguments = next(iter(value.items()))
        place = arguments.start
        return Node({"id": Node(name, place), "arguments": replace(arguments, key_mark=None)}, node.mark, node.key_mark)
    return under("id")(node)


def _options_stay_behind(before: Node, after: Node) -> Node:
    """Leave a broker's options out where another environment moves the transport into memory, as Symfony does."""
    dsn = after.value.get("dsn") if isinstance(after.value, dict) else None
    moves = dsn is not None and isinstance(dsn.value, str) and dsn.value.startswith(_IN_PROCESS)
    if not moves or not isinstance(before.value, dict):
        return before
    return replace(before, value={key: each for key, each in before.value.items() if key != "options"})


RETRY_STRATEGY = Keys(
    doc="When a message that failed is tried again.",
    short=Short(forms=(Text(),), expand=under("service")),
    keys={
        "service": Text(or_null=True, doc='"module:factory" of a retry strategy of your own, instead of the numbers.'),
        "max_retries": Whole(minimum=0, default=_RETRY.max_retries, doc="Retries after the first attempt; 0 is none."),
        "delay": Whole(minimum=0, unit="ms", default=_RETRY.delay, doc="Milliseconds before the first retry."),
        "multiplier": Decimal(minimum=1, default=_RETRY.multiplier, doc="By how much each further wait is longer."),
        "max_delay": Whole(
            minimum=0, unit="ms", default=_RETRY.max_delay, doc="Longest wait in milliseconds; 0 is no bound."
        ),
        "jitter": Decimal(
            minimum=0, maximum=1, default=_RETRY.jitter, doc="Share of the wait that is randomly added or taken."
        ),
    },
)

TRANSPORT = Keys(
    doc="A transport: its DSN, or a map.",
    short=Short(forms=(Text(),), expand=under("dsn")),
    before_merge=_options_stay_behind,
    keys={
        "dsn": Text(doc="Required: where messages go, such as doctrine://default?queue_name=async."),
        "options": MapOf(item=Free(), doc="Options of its driver; those in the query of the DSN win."),
        "serializer": Text(
            or_null=True, doc='"json", or "module:factory" of a serializer of your own; without it, the default one.'
        ),
        "failure_transport": Text(
            or_null=True, doc="Where its messages go when they are given up; without it, the general one."
        ),
        "retry_strategy": RETRY_STRATEGY,
        "rate_limiter": Text(or_null=True, doc="A rate limiter: how many of its messages may begin in which time."),
        "outbox": Text(
            or_null=True,
            doc="Ours: a connection; every send is a row in its table messenger_outbox first, and relayed from there.",
        ),
        "max_deliveries": Whole(
            minimum=1,
            default=_TRANSPORT.max_deliveries,
            doc="Ours: deliveries of one message that no worker survived, before it is given up unread.",
        ),
    },
)

ROUTE = Keys(
    doc="The transports of a message: a name, a list of names, or Symfony's older {senders: [...]}.",
    short=Short(forms=(Text(), ListOf(item=Text(), at_least=1)), expand=under("senders", lists=True)),
    replaces=True,
    keys={"senders": ListOf(item=Text(), or_one=True, at_least=1, doc="Names of transports.")},
)

# Arguments of our own middleware; those of others are checked when they are built.
ARGUMENTS: Mapping[str, Keys] = {
    "idempotency": Keys(
        doc="Runs each handler once for each message.",
        keys={
            "store": Text(doc="Where it is remembered; without it, the shared store."),
            "ttl": Duration(doc="How long it is remembered, longer than all retries take; without it, for ever."),
            "missing_id": Text(
                choices=("error", "hash", "handle"),
                default="error",
                doc="What to do with a message without a stable id.",
            ),
        },
    ),
    "deduplicate": Keys(
        doc="Keeps a message from being sent while its twin is waiting.",
        keys={"store": Text(doc="Where its key is locked; without it, the shared store.")},
    ),
    "transaction": Keys(
        doc="Runs each handler in a database transaction.",
        keys={"connection": Text(doc="The name of a connection; without it, default.")},
    ),
    "validation": Keys(doc="Validates a message before it is sent, and before it is handled.", keys={}),
}


def _known_arguments(node: Node) -> Keys:
    """Return how to read an entry: named arguments of our own middleware are checked here."""
    entry = node.value if isinstance(node.value, dict) else {}
    name = entry["id"].value if "id" in entry else None
    named = "arguments" in entry and isinstance(entry["arguments"].value, dict)
    if not named or not isinstance(name, str) or name not in ARGUMENTS:
        return MIDDLEWARE
    return replace(MIDDLEWARE, keys={**MIDDLEWARE.keys, "arguments": ARGUMENTS[name]})


MIDDLEWARE = Keys(
    doc="A middleware: its name, {name: arguments}, or {id: name, arguments: arguments}.",
    short=Short(
        forms=(Text(), MapOf(item=Free(collection=True), known=ARGUMENTS, at_most=1)), expand=_middleware_entry
    ),
    refine=_known_arguments,
    keys={
        "id": Text(doc='A name of ours, "module:factory", or a name under aliases.'),
        "arguments": Free(collection=True, doc="A list, or a map of named arguments."),
    },
)

BUS = Keys(
    doc="One bus: its default middleware, and yours.",
    keys={
        "default_middleware": Keys(
            doc='Whether the bus has its default middleware; "allow_no_handlers" is short for that key.',
            short=Short(forms=(Flag(), Text(choices=("allow_no_handlers",))), expand=_default_middleware),
            keys={
                "enabled": Flag(default=_BUS.default_middleware, doc="False leaves out the default middleware."),
                "allow_no_handlers": Flag(
                    default=_BUS.allow_no_handlers, doc="A message without a handler is no error."
                ),
                "allow_no_senders": Flag(
                    default=_BUS.allow_no_senders, doc="False: a message that no transport takes is an error."
                ),
            },
        ),
        "middleware": ListOf(item=MIDDLEWARE, or_one=True, doc="Your middleware, outermost first."),
    },
)

MESSENGER = Keys(
    doc="The configuration of the bus. Keys of Symfony Messenger mean what they mean there.",
    short=Short(forms=(Flag(),), expand=under("enabled")),
    keys={
        "enabled": Flag(default=True, doc="False: there is no bus in this environment, and using one is an error."),
        "imports": ListOf(
            item=Text(), or_one=True, appends=True, doc="Ours: modules with messages, handlers and stamps."
        ),
        "default_bus": Text(
            or_null=True, doc="The bus that is meant when none is named; needed where there are several."
        ),
        "buses": MapOf(item=BUS, doc='Buses by name; without any there is one called "messenger.bus.default".'),
        "failure_transport": Text(
            or_null=True, doc="Where messages go when they are given up, for transports that name none of their own."
        ),
        "transports": MapOf(item=TRANSPORT, doc="Transports by name."),
        "routing": MapOf(
            item=ROUTE,
            doc="Transports by message: a wire name, an alias, a dotted path of Python, a namespace ending in *, or *.",
        ),
        "serializer": Keys(
            doc="How messages become bytes.",
            short=Short(forms=(Text(),), expand=under("default_serializer")),
            keys={
                "default_serializer": Text(or_null=True, doc="The serializer of transports that name none."),
                "symfony_serializer": Keys(
                    doc="Symfony's serializer.",
                    keys={
                        "format": Text(choices=("json",), default="json", doc="The format on the wire."),
                        "context": MapOf(item=Free(), doc="Symfony's; has no meaning here.", note=_context_note),
                    },
                ),
            },
        ),
        "stop_worker_on_signals": ListOf(
            item=Free(),
            or_one=True,
            appends=True,
            note=_signals_note,
            doc="Symfony's; workers here always stop on SIGTERM and SIGINT.",
        ),
        "reset_on_message": _always("nothing has to be reset between messages here"),
        "rate_limiter": RATE_LIMITERS,
        "aliases": MapOf(
            item=Text(), doc='Ours: another name of a message, or "module:factory" for a service id of PHP.'
        ),
        "connections": MapOf(
            item=Text(),
            doc="Ours: database URLs by the name that sql:// and doctrine:// use; without an entry, default is "
            "$DATABASE_URL, else sqlite:///var/bus.db.",
        ),
        "store": Text(
            default=MessengerConfig().store,
            doc="Ours: the shared store, where processes agree on claims, counters and requests to stop: sql://NAME, "
            "sqlite:///path, or memory:// for a single process.",
        ),
    },
)

PARAMETERS = MapOf(item=Free(), doc="Values that %name% stands for.")
