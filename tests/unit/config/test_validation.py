"""Which keys and values are valid, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bus.config.loader import Loaded
from bus.config.schema import BusConfig, MiddlewareConfig, TransportConfig
from bus.retry import RetryPolicy

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]


def test_every_problem_is_reported_at_once_one_line_each_in_the_order_of_the_file(problems: Problems) -> None:
    assert problems(
        """\
        messenger:
          failure_transport: faild
          transports:
            async:
              optoins: {}
              retry_strategy: { jitter: 3 }
            failed: 'doctrine://default?queue_name=failed'
          routing:
            app.Order: asnyc
            app.Invoice: [failed, asnyc]
        """
    ) == [
        'messenger.yaml:2:3 failure_transport: there is no transport "faild"; did you mean "failed"?',
        'messenger.yaml:4:5 transports.async.dsn: a transport needs a DSN, such as "doctrine://default"',
        'messenger.yaml:5:7 transports.async: unknown key "optoins"; did you mean "options"?',
        "messenger.yaml:6:33 transports.async.retry_strategy.jitter: expected a number from 0 to 1, but it is 3",
        'messenger.yaml:9:5 routing.app.Order.senders: there is no transport "asnyc"; did you mean "async"?',
        'messenger.yaml:10:27 routing.app.Invoice.senders.1: there is no transport "asnyc"; did you mean "async"?',
    ]


@pytest.mark.parametrize(
    ("retry", "problem"),
    [
        ("max_retries: -1", "max_retries: expected a whole number from 0, but it is -1"),
        ("max_retries: 1.5", "max_retries: expected a whole number from 0, but it is 1.5"),
        ("max_retries: true", "max_retries: expected a whole number from 0, but it is true"),
        ("max_retries: ~", "max_retries: expected a whole number from 0, but it is null"),
        ("max_retries: many", 'max_retries: expected a whole number from 0, but it is "many"'),
        ("max_retries: [1]", "max_retries: expected a whole number from 0, but it is a list"),
        ("delay: -1", "delay: expected a whole number of milliseconds from 0, but it is -1"),
        (
            "delay: 1s",
            "Symfony's unit is the millisecond: write 1000",
        ),
        ("multiplier: 0.5", "multiplier: expected a number from 1, but it is 0.5"),
        ("max_delay: {}", "max_delay: expected a whole number of milliseconds from 0, but it is a map"),
        ("jitter: 1.1", "jitter: expected a number from 0 to 1, but it is 1.1"),
        ("jitter: -0.1", "jitter: expected a number from 0 to 1, but it is -0.1"),
        ("jitter: .nan", "jitter: expected a number from 0 to 1, but it is nan"),
        ("multiplier: .inf", "multiplier: expected a number from 1, but it is inf"),
        ("service: 5", "service: expected a text, but it is 5"),
        ("service: ''", "service: it must not be empty"),
        ("retries: 3", 'unknown key "retries"; did you mean "max_retries"?'),
    ],
)
def test_a_retry_strategy_has_its_types_and_ranges(retry: str, problem: str, problems: Problems) -> None:
    (line,) = problems(f"messenger: {{transports: {{a: {{dsn: 'sync://', retry_strategy: {{{retry}}}}}}}}}")

    assert line.endswith(problem)


@pytest.mark.parametrize(
    ("messenger", "problem"),
    [
        ("5", "enabled: expected true or false, but it is 5"),
        ("[a]", "1:12: expected true or false or a map, but it is a list"),
        ("{enabled: false}", 'enabled: messenger is switched off in the environment "dev": there is no bus to use'),
        ("false", 'enabled: messenger is switched off in the environment "dev": there is no bus to use'),
        ("{imports: {a: b}}", "imports: expected a text, but it is a map"),
        ("{imports: [shop/handlers.py]}", 'no module, such as "shop.handlers"; write "shop.handlers"'),
        ("{imports: [shop.handlers., 'a b']}", 'imports.0: "shop.handlers." is no module, such as "shop.handlers"'),
        ("{transports: async}", 'transports: expected a map, but it is "async"'),
        ("{transports: {a: [b]}}", "transports.a: expected a text or a map, but it is a list"),
        ("{transports: {a: 'sync://'}, routing: {shop.A: a.dsn}}", 'there is no transport "a.dsn"; transports are "a"'),
        ("{transports: {a: 5}}", "transports.a.dsn: expected a text, but it is 5"),
        ("{transports: {a: ''}}", "transports.a.dsn: it must not be empty"),
        ("{transports: {a: ~}}", 'transports.a.dsn: a transport needs a DSN, such as "doctrine://default"'),
        ("{transports: {a: {dsn: ~}}}", "transports.a.dsn: expected a text, but it is null"),
        ("{transports: {a: sync}}", "transports.a.dsn: expected a DSN, one line that begins with a scheme"),
        ("{transports: {'': 'sync://'}}", "transports: a name must not be empty"),
        ("{transports: {a: {dsn: 'x:', max_deliveries: 0}}}", "max_deliveries: expected a whole number from 1, but"),
        ("{transports: {a: {dsn: 'x:', options: [b]}}}", "options: expected a map, but it is a list"),
        ("{transports: {a: {dsn: 'x:', retry_strategy: {service: m:f, delay: 1}}}}", '"service" cannot stand beside'),
        ("{routing: {App: []}}", "routing.App.senders: the list must not be empty"),
        ("{routing: {App: {}}}", "routing.App: it names no transport"),
        ("{routing: {App: {sender: x}}}", 'routing.App: unknown key "sender"; did you mean "senders"?'),
        ("{buses: {a: {middleware: {b: [], c: []}}}}", "middleware needs one name"),
        ("{buses: {a: {middleware: [{b: c}]}}}", "middleware.0.arguments: expected a list or a map, but it is"),
        ("{buses: {a: {middleware: [{id: b, args: []}]}}}", 'unknown key "args"; '),
        ("{buses: {a: {default_middleware: allow_no_handler}}}", 'did you mean "allow_no_handlers"?'),
        ("{buses: {a: {default_middleware: {enabled: 1}}}}", "enabled: expected true or false, but it is 1"),
        ("{serializer: {symfony_serializer: {format: xml}}}", 'format: expected "json", but it is "xml"'),
        ("{connections: {default: 5}}", "connections.default: expected a text, but it is 5"),
        ("{aliases: [a]}", "aliases: expected a map, but it is a list"),
        ("{transprots: {}}", 'unknown key "transprots"; did you mean "transports"?'),
        ("{zebra: 1}", 'unknown key "zebra"; valid are "enabled", "imports", "default_bus", "buses",'),
    ],
)
def test_a_wrong_value_is_an_error_that_says_what_is_valid(messenger: str, problem: str, problems: Problems) -> None:
    assert any(problem in line for line in problems(f"messenger: {messenger}"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mesenger: {}", 'messenger.yaml:1:1: unknown key "mesenger"; did you mean "messenger"?'),
        (
            "framework: {messnger: {}}",
            'messenger.yaml:1:13 framework: unknown key "messnger"; did you mean "messenger"?',
        ),
        ("messenger: {}\ntransports: {}", 'it belongs under "messenger"'),
        ("messenger: {}\nservices: {}", 'messenger.yaml:2:1: unknown key "services"; valid are "framework",'),
        ("messenger: {}\nframework: {messenger: {}}", '"messenger" stands twice: here and under "framework"'),
        ("framework: []", "messenger.yaml:1:12 framework: expected a map"),
        ("messenger: {}\nparameters: [a]", "messenger.yaml:2:13 parameters: expected a map"),
        ("messenger: {}\nwhen@dev: [a]", "messenger.yaml:2:11 when@dev: expected a map"),
    ],
)
def test_the_top_of_the_file_is_checked_as_well(text: str, problem: str, problems: Problems) -> None:
    assert problem in problems(text)[0]


def test_both_roots_say_the_same(load: Load) -> None:
    below_framework = load("framework: {messenger: {store: 'sql://x'}}").config

    assert below_framework == load("messenger: {store: 'sql://x'}").config
    assert below_framework.store == "sql://x"


@pytest.mark.parametrize(
    "nothing", ["~", "{}", "[]", "true", "{enabled: true}", "{transports: [], buses: ~, routing: []}"]
)
def test_a_messenger_that_says_nothing_has_the_defaults(nothing: str, load: Load) -> None:
    config = load(f"messenger: {nothing}").config

    assert config.transports == config.buses == config.routing == {}
    assert config.connections == {"default": "sqlite:///var/bus.db"}
    assert config.store == "sql://default"


def test_a_transport_that_is_a_text_has_the_defaults_of_symfony(load: Load) -> None:
    transport = load("messenger: {transports: {async: 'doctrine://default'}}").config.transports["async"]

    assert transport == TransportConfig(dsn="doctrine://default")
    assert transport.retry == RetryPolicy(max_retries=3, delay=1000, multiplier=2, max_delay=0, jitter=0.1)


def test_a_transport_with_everything(load: Load) -> None:
    config = load(
        """\
        messenger:
          transports:
            async:
              dsn: amqp://localhost/%2f/messages
              options: {exchange: {name: e}, queues: {q: {binding_keys: [a, b]}}}
              serializer: shop.wire:serializer
              failure_transport: failed
              retry_strategy: {max_retries: 0, delay: 5, multiplier: 1.5, max_delay: 9, jitter: 0}
              rate_limiter: slow
              max_deliveries: 5
            failed: 'doctrine://default?queue_name=failed'
          rate_limiter: {slow: {policy: fixed_window, limit: 1, interval: '1 minute'}}
        """
    ).config

    assert config.transports["async"] == TransportConfig(
        dsn="amqp://localhost/%2f/messages",
        options={"exchange": {"name": "e"}, "queues": {"q": {"binding_keys": ["a", "b"]}}},
        serializer="shop.wire:serializer",
        failure_transport="failed",
        retry=RetryPolicy(max_retries=0, delay=5, multiplier=1.5, max_delay=9, jitter=0),
        rate_limiter="slow",
        max_deliveries=5,
    )


@pytest.mark.parametrize(
    ("default_middleware", "bus"),
    [
        ("true", BusConfig()),
        ("false", BusConfig(default_middleware=False)),
        ("allow_no_handlers", BusConfig(allow_no_handlers=True)),
        ("{allow_no_handlers: true}", BusConfig(allow_no_handlers=True)),
        ("{allow_no_senders: false}", BusConfig(allow_no_senders=False)),
        ("{enabled: false, allow_no_handlers: true}", BusConfig(default_middleware=False, allow_no_handlers=True)),
        ("~", BusConfig()),
    ],
)
def test_the_forms_of_default_middleware(default_middleware: str, bus: BusConfig, load: Load) -> None:
    assert load(f"messenger: {{buses: {{b: {{default_middleware: {default_middleware}}}}}}}").config.buses == {"b": bus}


@pytest.mark.parametrize(
    ("middleware", "expected"),
    [
        ("shop.audit:Audit", MiddlewareConfig(name="shop.audit:Audit")),
        ("[shop.audit:Audit]", MiddlewareConfig(name="shop.audit:Audit")),
        ("[{shop.audit:Audit: [a, 1]}]", MiddlewareConfig(name="shop.audit:Audit", positional=("a", 1))),
        ("{shop.audit:Audit: {deep: {a: 1}}}", MiddlewareConfig(name="shop.audit:Audit", arguments={"deep": {"a": 1}})),
        ("[{id: shop.audit:Audit}]", MiddlewareConfig(name="shop.audit:Audit")),
        ("[{id: x, arguments: [1]}]", MiddlewareConfig(name="x", positional=(1,))),
        ("[{id: x, arguments: {a: 1}}]", MiddlewareConfig(name="x", arguments={"a": 1})),
        ("[{x: ~}]", MiddlewareConfig(name="x")),
        (
            "[{idempotency: {store: 'sql://default', ttl: 24h, missing_id: hash}}]",
            MiddlewareConfig(
                name="idempotency", arguments={"store": "sql://default", "ttl": "24h", "missing_id": "hash"}
            ),
        ),
        ("[doctrine_transaction]", MiddlewareConfig(name="transaction")),
        (
            "[messenger.middleware.doctrine_transaction: [other]]",
            MiddlewareConfig(name="transaction", positional=("other",)),
        ),
        ("[messenger.middleware.send_message]", MiddlewareConfig(name="send_message")),
    ],
)
def test_the_forms_of_middleware(middleware: str, expected: MiddlewareConfig, load: Load) -> None:
    assert load(f"messenger: {{buses: {{b: {{middleware: {middleware}}}}}}}").config.buses["b"].middleware == (
        expected,
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("{ttl: 24}", "arguments.ttl: the number 24 has no unit; write what is meant:"),
        ("{ttl: '24'}", "arguments.ttl: the number 24 has no unit; write what is meant:"),
        ("{ttl: long}", 'arguments.ttl: expected a duration such as "500ms"'),
        ("{ttl: true}", 'arguments.ttl: expected a duration such as "500ms" or "24h", but it is true'),
        ("{missing_id: hsh}", 'expected "error", "hash" or "handle", but it is "hsh"; did you mean "hash"?'),
        ("{stroe: x}", 'unknown key "stroe"; did you mean "store"?'),
    ],
)
def test_arguments_of_our_own_middleware_are_checked(arguments: str, problem: str, problems: Problems) -> None:
    (line,) = problems(f"messenger: {{buses: {{b: {{middleware: [{{idempotency: {arguments}}}]}}}}}}")

    assert problem in line


@pytest.mark.parametrize(
    "place",
    [
        "buses: {b: {middleware: [SERVICE]}}",
        "serializer: SERVICE",
        "transports: {a: {dsn: 'sync://', serializer: SERVICE}}",
        "transports: {a: {dsn: 'sync://', retry_strategy: {service: SERVICE}}}",
    ],
)
@pytest.mark.parametrize("service", ["App\\Some\\Service", "'@app.some_service'"])
def test_a_service_of_php_needs_an_alias(place: str, service: str, load: Load, problems: Problems) -> None:
    messenger = place.replace("SERVICE", service)

    (line,) = problems(f"messenger: {{{messenger}}}")

    assert line.endswith(
        f'''"{service.strip("'")}" is a service of PHP; name its counterpart, "module:factory", under "aliases"'''
    )
    alias = service.strip("'@")
    load(f"messenger: {{{messenger}, aliases: {{{alias}: shop:factory}}}}")


@pytest.mark.parametrize(
    "service", ["json", "messenger.transport.symfony_serializer", "'@messenger.transport.symfony_serializer'"]
)
def test_the_serializer_of_symfony_is_json(service: str, load: Load) -> None:
    config = load(
        f"messenger: {{serializer: {service}, transports: {{a: {{dsn: 'sync://', serializer: {service}}}}}}}"
    ).config

    assert config.serializer == config.transports["a"].serializer == "json"


def test_the_format_of_php_itself_is_an_error(problems: Problems) -> None:
    (line,) = problems("messenger: {serializer: messenger.transport.native_php_serializer}")

    assert "writes PHP's own format, which nothing but PHP can read" in line


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("framework: {messenger: {}, http_client: {}}", "messenger.yaml:1:28 framework.http_client: left aside: "),
        ("framework: {messenger: {}}\ndoctrine: {}", "messenger.yaml:2:1 doctrine: left aside: "),
        ("messenger: {reset_on_message: true}", "nothing has to be reset between messages here"),
        ("messenger: {stop_worker_on_signals: SIGQUIT}", "workers here stop on SIGTERM and SIGINT"),
        ("messenger: {stop_worker_on_signals: [15, 3]}", "workers here stop on SIGTERM and SIGINT"),
        ("messenger: {serializer: {symfony_serializer: {context: {a: 1}}}}", "serializer has no meaning here"),
        ("messenger: {buses: {b: {middleware: [router_context]}}}", "there is no router here"),
    ],
)
def test_what_has_no_meaning_here_is_noted(text: str, note: str, load: Load) -> None:
    (line,) = load(text).notes

    assert note in line


@pytest.mark.parametrize(
    "text",
    [
        "messenger: {stop_worker_on_signals: [SIGTERM, SIGINT, 15, 2]}",
        "messenger: {serializer: {symfony_serializer: {format: json, context: []}}}",
        "messenger: {enabled: true}",
    ],
)
def test_what_is_so_here_anyway_is_not_noted(text: str, load: Load) -> None:
    assert load(text).notes == ()


def test_an_error_in_a_large_file_is_not_followed_by_thousands(problems: Problems) -> None:
    lines = problems("messenger:\n" + "".join(f"  key{n}: x\n" for n in range(5000)))

    assert len(lines) == 101
    assert lines[-1] == "messenger.yaml: and more problems"


def test_every_value_knows_where_it_stands(load: Load) -> None:
    config = load(
        """\
        messenger:
          imports: [shop.handlers]
          transports:
            async:
              dsn: 'sync://'
          routing:
            'App\\A': async
            shop.B: [async]
        """
    ).config

    assert dict(config.locations) == {
        "imports": "messenger.yaml:2:3",
        "imports.0": "messenger.yaml:2:13",
        "transports": "messenger.yaml:3:3",
        "transports.async": "messenger.yaml:4:5",
        "transports.async.dsn": "messenger.yaml:5:7",
        "routing": "messenger.yaml:6:3",
        "routing.App\\A": "messenger.yaml:7:5",
        "routing.App\\A.senders": "messenger.yaml:7:5",
        "routing.shop.B": "messenger.yaml:8:5",
        "routing.shop.B.senders": "messenger.yaml:8:5",
        "routing.shop.B.senders.0": "messenger.yaml:8:14",
    }
