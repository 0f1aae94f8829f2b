"""No password in any message, whatever is done to the file; and no file that ends in anything but an error of ours."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bus.config.environment import Environment
from bus.config.loader import Loaded, load_text
from bus.config.schema import MessengerConfig, MiddlewareConfig, TransportConfig
from bus.errors import ConfigurationError

EXAMPLES = sorted((Path(__file__).parent / "symfony").glob("*.yaml"))
SECRET = "hunter2Xk9"
MUTATIONS = 2_000

NAMES = "MESSENGER_TRANSPORT_DSN MESSENGER_CONSUMER_NAME INDIRECT_DSN TRANSPORT_OPTIONS RETRIES MULTIPLIER SENDERS"
VARIABLES = dict.fromkeys([*NAMES.split(), "PRODUCTION_DSN"], f"amqp://shop:{SECRET}@broker.example/%2f/messages")

WITH_SECRETS = f"""\
framework:
  messenger:
    connections:
      default: 'postgresql://shop:{SECRET}@db.example:5432/shop?sslmode=require'
      reports: postgresql://reports:{SECRET}@db.example/reports
    store: "rediss://:{SECRET}@cache.example:6379/0"
    failure_transport: failed
    transports:
      async:
        dsn: 'amqps://shop:{SECRET}@broker.example:5671/%2f/messages'
        options: {{ password: '{SECRET}', queues: {{ orders: {{ binding_keys: ['order.*'] }} }} }}
        retry_strategy: {{ max_retries: 3, delay: 1000, multiplier: 2, jitter: 0.1 }}
      redis: redis://{SECRET}@cache.example:6379/messages
      failed: 'doctrine://default?queue_name=failed'
    routing:
      'App\\Message\\*': [async, redis]
    buses:
      main.bus:
        middleware: [validation, {{ idempotency: {{ store: 'redis://:{SECRET}@cache.example/1', ttl: 24h }} }}]
when@prod:
  framework: {{ messenger: {{ transports: {{ redis: 'redis://:{SECRET}@prod.example:6379/messages' }} }} }}
"""


def test_no_repr_of_a_configuration_shows_a_secret() -> None:
    config = MessengerConfig(
        transports={"a": TransportConfig(dsn=f"amqp://u:{SECRET}@h", options={"password": SECRET})},
        connections={"default": f"postgresql://u:{SECRET}@h/db"},
        store=f"redis://:{SECRET}@h",
    )
    middleware = MiddlewareConfig(name="idempotency", arguments={"store": f"redis://:{SECRET}@h"}, positional=(SECRET,))

    assert SECRET not in repr(config)
    assert SECRET not in repr(middleware)


@pytest.mark.parametrize(
    "messenger",
    [
        f"{{amqp://u:{SECRET}@h: x}}",
        f"{{transports: {{a: {{amqp://u:{SECRET}@h: x}}}}}}",
        f"{{failure_transport: 'amqp://u:{SECRET}@h'}}",
        f"{{default_bus: 'u:{SECRET}@h'}}",
        f"{{imports: ['amqp://u:{SECRET}@h']}}",
        f"{{serializer: '@amqp://u:{SECRET}@h'}}",
        f"{{transports: {{a: 'u {SECRET}@h/'}}}}",
        f"{{aliases: {{a: 'amqp://u:{SECRET}@h'}}}}",
        f"{{connections: {{'amqp://u:{SECRET}@h': 'sqlite://'}}}}",
        f"{{transports: {{'amqp://u:{SECRET}@h': 'sync://'}}}}",
        f"{{buses: {{'amqp://u:{SECRET}@h': ~}}}}",
        f"{{buses: {{b: {{middleware: ['amqp://u:{SECRET}@h']}}}}}}",
        f"{{transports: {{a: {{dsn: ['amqp://u:{SECRET}@h']}}}}}}",
        f"{{transports: {{'amqp://u:{SECRET}@h': {{}}}}}}",
        f"{{transports: {{a: {{dsn: 'sync://', retry_strategy: {{delay: 'amqp://u:{SECRET}@h'}}}}}}}}",
        f"{{transports: {{a: 'sync://'}}, routing: {{A: 'amqp://u:{SECRET}@h'}}}}",
        f"{{transports: {{a: 'sync://'}}, routing: {{'amqp://u:{SECRET}@h*': a}}}}",
        f"{{buses: {{a: {{middleware: [{{id: 'App\\://u:{SECRET}@h'}}]}}}}}}",
        f"{{aliases: *amqp://u:{SECRET}@h }}",
        f"{{aliases: !amqp://u:{SECRET}@h x}}",
        f"{{store: '%env(key:u:{SECRET}@h)%'}}",
        f"{{store: '%u:{SECRET}@h%'}}",
        f"{{store: '${{u:{SECRET}@h}}'}}",
        f'{{store: "amqp:\\u:{SECRET}@h"}}',
    ],
)
def test_what_may_be_a_dsn_is_not_repeated_wherever_it_stands(
    messenger: str, problems: Callable[..., list[str]]
) -> None:
    assert not [line for line in problems(f"messenger: {messenger}") if SECRET in line]


def mutated(seed: int) -> bytes:
    """Return one of the examples with a few bytes or lines changed."""
    chance = random.Random(seed)
    sources = [WITH_SECRETS.encode(), *(example.read_bytes() for example in EXAMPLES)]
    text = bytearray(sources[0] if seed % 2 else chance.choice(sources))
    for _ in range(chance.randint(1, 6)):
        chance.choice((_bytes, _lines, _values))(text, chance)
    return bytes(text)


PIECES = [
    b"\t",
    b": ",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!x ",
    b"!!int ",
    b"'",
    b'"',
    b"%",
    b"|\n",
]
PIECES += [b"${", b"%env(", b")%", b"\n", b"---\n", b"#", b"?", b"@", b"\xff", b"\x00", b"\xef\xbb\xbf", b"no", b"017"]
VALUES = [b"~", b"[]", b"{}", b"5", b"-1", b"true", b"no", b"''", b"[[[[]]]]", b"{a: {b: c}}", b"'%env(RETRIES)%'"]
VALUES += [
    b"'%env(int:RETRIES)%'",
    b"'${SENDERS}'",
    b"'${X:-y}'",
    b"*a",
    b"&a x",
    b"!!python/object:os.system x",
    b"1e3",
]


def _bytes(text: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(text))
    match chance.randrange(4):
        case 0:
            text[place] = chance.randrange(256)
        case 1:
            del text[place : place + chance.randint(1, 8)]
        case 2:
            text[place:place] = chance.choice(PIECES)
        case _:
            text[place:place] = text[place : place + chance.randint(1, 40)]


def _lines(text: bytearray, chance: random.Random) -> None:
    lines = bytes(text).split(b"\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(4):
        case 0:
            lines[one], lines[other] = lines[other], lines[one]
        case 1:
            lines.insert(one, lines[other])
        case 2:
            del lines[one]
        case _:
            lines[one] = b" " * chance.randint(0, 12) + lines[one].lstrip()
    text[:] = b"\n".join(lines) or b"\n"


def _values(text: bytearray, chance: random.Random) -> None:
    lines = bytes(text).split(b"\n")
    place = chance.randrange(len(lines))
    key, colon, _ = lines[place].partition(b":")
    if colon:
        lines[place] = key + b": " + chance.choice(VALUES)
    text[:] = b"\n".join(lines)


def outcomes() -> Iterator[tuple[int, float, Loaded | ConfigurationError]]:
    for seed in range(MUTATIONS):
        text = mutated(seed)
        environment = Environment(VARIABLES, ("dev", "test", "prod")[seed % 3], Path("/srv/shop"))
        started = time.perf_counter()
        outcome: Loaded | ConfigurationError
        try:
            outcome = load_text(text, "messenger.yaml", environment)
        except ConfigurationError as error:
            outcome = error
        yield seed, time.perf_counter() - started, outcome


def test_two_thousand_mutated_files_end_in_a_configuration_or_an_error_without_secrets() -> None:
    loaded = 0
    for seed, seconds, outcome in outcomes():
        shown = repr(outcome) if isinstance(outcome, ConfigurationError) else repr((outcome.notes, outcome.config))
        assert SECRET not in shown, seed
        assert seconds < 1, seed
        if isinstance(outcome, ConfigurationError):
            assert all(line.startswith("messenger.yaml:") for line in outcome.problems), seed
        loaded += isinstance(outcome, Loaded)

    # Neither all nor nothing: the mutations reach behind the parser.
    assert MUTATIONS / 50 < loaded < MUTATIONS / 2
