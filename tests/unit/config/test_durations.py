from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus.config.grammar import MESSENGER
from bus.config.keys import Duration, Keys, ListOf, MapOf, Spec, Whole
from bus.durations import parse_duration
from bus.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("1.5s", 1_500),
        ("15m", 900_000),
        ("24h", 86_400_000),
        ("7d", 604_800_000),
        (" 2 h ", 7_200_000),
        ("0s", 0),
    ],
)
def test_a_duration_is_a_number_with_its_unit(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["24", "0", "-5", "1.5"])
def test_a_number_without_a_unit_is_refused_with_its_readings(text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_duration(text)

    assert str(raised.value) == (
        f'the number {text} has no unit; write what is meant: "{text}ms" (milliseconds), "{text}s" (seconds), '
        f'"{text}m" (minutes), "{text}h" (hours), "{text}d" (days)'
    )


@pytest.mark.parametrize("text", ["", "h", "24 hours", "1h30m", "1e3s", "-5s", "24H", "٣s", "9" * 50 + "s"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigurationError, match='expected a duration such as "500ms"'):
        parse_duration(text)


def durations_in(spec: Spec, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(spec, Whole) and spec.unit:
        yield path, f"a number, Symfony's unit: {spec.unit}"
    elif isinstance(spec, Duration):
        yield path, "a text with its unit"
    elif isinstance(spec, ListOf):
        yield from durations_in(spec.item, f"{path}[]")
    elif isinstance(spec, Keys):
        for form in spec.short.forms if spec.short else ():
            yield from durations_in(form, path)
        for key, each in spec.keys.items():
            yield from durations_in(each, f"{path}.{key}".lstrip("."))
    elif isinstance(spec, MapOf):
        yield from durations_in(spec.item, f"{path}.*")
        for key, each in (spec.known or {}).items():
            yield from durations_in(each, f"{path}.{key}")


def test_every_duration_of_the_configuration_and_its_unit() -> None:
    assert dict(durations_in(MESSENGER, "")) == {
        "transports.*.retry_strategy.delay": "a number, Symfony's unit: ms",
        "transports.*.retry_strategy.max_delay": "a number, Symfony's unit: ms",
        "buses.*.middleware[].idempotency.ttl": "a text with its unit",
    }
