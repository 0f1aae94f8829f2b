"""The forms that Symfony's documentation shows, and the example of this project, load whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.config.environment import Environment
from bus.config.loader import Loaded, load_text
from bus.config.schema import BusConfig, MessengerConfig, MiddlewareConfig
from bus.retry import RetryPolicy

FOLDER = Path(__file__).parent / "symfony"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
SHIPPED = Path(__file__).parents[3] / "config" / "messenger.yaml"

VARIABLES = {
    "MESSENGER_TRANSPORT_DSN": "amqp://localhost/%2f/messages",
    "MESSENGER_CONSUMER_NAME": "worker_01",
    "INDIRECT_DSN": " %scheme%://default ",
    "TRANSPORT_OPTIONS": '{"queue_name": "invoices"}',
    "RETRIES": "7",
    "MULTIPLIER": "1.5",
    "SENDERS": "async",
}


def load(name: str, app_env: str = "dev", **more: str) -> Loaded:
    file = FOLDER / f"{name}.yaml"
    return load_text(file.read_bytes(), file.name, Environment({**VARIABLES, **more}, app_env, Path("/srv/shop")))


def config_of(name: str, app_env: str = "dev", **more: str) -> MessengerConfig:
    return load(name, app_env, **more).config


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("app_env", ["dev", "test"])
def test_every_documented_form_loads_whole(example: Path, app_env: str) -> None:
    config = config_of(example.stem, app_env)

    assert config.source == example.name
    assert len(EXAMPLES) >= 20


LEFT_OUT = 'buses.command_bus.middleware.{}: the middleware "{}" of Symfony is left out: {}'

NOTES = {
    "whole_application": [
        "imports: left aside: it belongs to another part of the application",
        "services: left aside: it belongs to another part of the application",
        "framework.secret: left aside: it is no part of messenger",
        "framework.cache: left aside: it is no part of messenger",
    ],
    "signals": [
        "reset_on_message: nothing has to be reset between messages here",
        "stop_worker_on_signals: workers here stop on SIGTERM and SIGINT, and on no other signal",
    ],
    "middleware_of_doctrine": [
        LEFT_OUT.format(0, "doctrine_ping_connection", "connections are checked and opened again by the transport"),
        LEFT_OUT.format(1, "doctrine_close_connection", "connections are given back after each message"),
        LEFT_OUT.format(
            2, "doctrine_open_transaction_logger", "a transaction is opened and closed by the middleware transaction"
        ),
    ],
    "middleware_of_the_framework": [LEFT_OUT.format(0, "router_context", "there is no router here")],
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_what_is_left_aside_is_said_and_nothing_else(example: Path) -> None:
    notes = [note.partition(" ")[2] for note in load(example.stem).notes]

    assert notes == NOTES.get(example.stem, [])


def test_routing() -> None:
    assert config_of("routing_by_class").routing == {"App\\Message\\InvoiceDue": ("async",)}
    assert config_of("routing_unquoted_to_sync").routing == {"App\\Message\\InvoiceDue": ("sync",)}
    assert config_of("routing_wildcards").routing == {"App\\Message\\*": ("async",), "*": ("sync",)}
    assert config_of("routing_by_parent_and_to_several").routing["Ledger\\Message\\EntryPosted"] == ("async", "audit")
    assert config_of("routing_senders").routing == {
        "App\\Message\\InvoiceDue": ("async", "audit"),
        "App\\Message\\InvoicePaid": ("async",),
    }


def test_options_are_handed_on_as_they_are() -> None:
    transport = config_of("amqp_exchange_and_queues").transports["invoices"]

    assert transport.serializer == "json"
    assert transport.options == {
        "exchange": {"name": "invoices", "type": "topic", "default_publish_routing_key": "invoice.unknown"},
        "queues": {
            "invoices_due": {
                "binding_keys": ["invoice.due.*", "invoice.#"],
                "arguments": {"x-max-priority": 10},
            },
            "invoices_all": None,
        },
        "delay": {"exchange_name": "later", "queue_name_pattern": "later_%exchange_name%_%routing_key%_%delay%"},
        "confirm_timeout": 0.5,
        "auto_setup": False,
    }


def test_retries() -> None:
    assert config_of("retry_strategy").transports["invoices_high"].retry == RetryPolicy()
    transports = config_of("retry_service").transports
    assert transports["async"].retry_service == transports["other"].retry_service == "App\\Retry\\OfficeHours"


def test_failure_transports() -> None:
    config = config_of("several_failure_transports")

    assert {name: config.failure_transport_of(name) for name in config.transports} == {
        "invoices_high": "failed_high",
        "invoices_low": "failed_default",
        "failed_default": None,
        "failed_high": "failed_default",
    }


def test_the_test_environment_needs_no_broker() -> None:
    transport = config_of("test_environment_in_memory", "test").transports["async"]

    assert (transport.dsn, transport.options, transport.retry.max_retries) == ("in-memory://", {}, 5)


def test_middleware() -> None:
    bus = config_of("middleware_by_hand").buses["messenger.bus.default"]

    assert bus == BusConfig(
        default_middleware=False,
        middleware=(
            MiddlewareConfig(name="add_bus_name_stamp_middleware", positional=("messenger.bus.default",)),
            MiddlewareConfig(name="App\\Middleware\\Audit"),
            MiddlewareConfig(name="app.tenant", positional=("dev",)),
            MiddlewareConfig(name="send_message"),
            MiddlewareConfig(name="handle_message"),
        ),
    )
    assert config_of("middleware_of_doctrine").buses["command_bus"].middleware == (
        MiddlewareConfig(name="transaction"),
        MiddlewareConfig(name="transaction", positional=("ledger",)),
    )


def test_buses() -> None:
    config = config_of("several_buses")

    assert config.default_bus == "command.bus"
    assert [name for name, bus in config.buses.items() if bus.allow_no_handlers] == ["event.bus", "loose.bus"]
    assert config.buses["audit.bus"] == BusConfig()


def test_variables_and_parameters() -> None:
    transport = config_of("env_processors").transports["async"]
    assert transport.dsn == "doctrine://default"
    assert transport.options == {"queue_name": "invoices"}
    assert transport.retry == RetryPolicy(max_retries=7, multiplier=1.5, max_delay=60_000)
    assert config_of("env_processors").routing == {"App\\Message\\InvoiceDue": ("async",)}

    transport = config_of("whole_application", MESSENGER_TRANSPORT_DSN="sql://mine").transports["async"]
    assert (transport.dsn, transport.retry.max_retries) == ("sql://mine?table_name=ledger_messages", 7)


def test_the_example_of_the_design() -> None:
    text = rb"""
framework:
  messenger:
    imports: [examples.shop.handlers]          # ours: modules with handlers and messages
    default_bus: command.bus
    buses:
      command.bus: { middleware: [validation, {idempotency: {store: 'sql://default', ttl: '24h'}}] }
      event.bus: { default_middleware: allow_no_handlers }
    failure_transport: failed
    transports:
      async:
        dsn: '%env(MESSENGER_TRANSPORT_DSN)%'
        options:
          exchange: { name: events, type: topic }
          queues:
            order_events: { binding_keys: ['order.*'] }
        retry_strategy: { max_retries: 3, delay: 1000, multiplier: 2, max_delay: 30000, jitter: 0.1 }
      audit: 'kafka://localhost/audit'
      failed: 'doctrine://default?queue_name=failed'
    routing:
      'Domain\Order\Event\OrderPlaced': async
      'examples.shop.messages.*': [async, audit]
when@test: ~
"""
    loaded = load_text(text, "messenger.yaml", Environment(VARIABLES, "test", Path.cwd()))

    assert loaded.notes == ()
    assert loaded.config.imports == ("examples.shop.handlers",)
    assert loaded.config.buses["command.bus"].middleware[1].arguments == {"store": "sql://default", "ttl": "24h"}
    assert loaded.config.transports["async"].retry.max_delay == 30_000
    assert loaded.config.routing["examples.shop.messages.*"] == ("async", "audit")


@pytest.mark.parametrize("app_env", ["dev", "test"])
def test_the_shipped_example_loads_without_a_note(app_env: str) -> None:
    loaded = load_text(SHIPPED.read_bytes(), "config/messenger.yaml", Environment({}, app_env, Path.cwd()))

    assert loaded.notes == ()
    assert set(loaded.config.transports) == {"async", "failed"}
    assert loaded.config.failure_transport_of("async") == "failed"
