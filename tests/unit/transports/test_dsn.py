from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from bus.errors import ConfigurationError
from bus.transports.dsn import Dsn, Host, options_from

PASSWORD = "s3cr3t/@:?#%"
ENCODED = "s3cr3t%2F%40%3A%3F%23%25"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("in-memory://", Dsn("in-memory")),
        ("sqlite:///var/bus.db", Dsn("sqlite", path="/var/bus.db")),
        ("sqlite:////srv/bus.db", Dsn("sqlite", path="//srv/bus.db")),
        (
            "doctrine://default?queue_name=failed",
            Dsn("doctrine", hosts=(Host("default"),), query={"queue_name": "failed"}),
        ),
        ("redis://h1:1,h2:2/m", Dsn("redis", hosts=(Host("h1", 1), Host("h2", 2)), path="/m")),
        ("amqp://[::1]:5672/%2f", Dsn("amqp", hosts=(Host("::1", 5672),), path="//")),
        (
            f"amqp://us%40er:{ENCODED}@Host/x?a=b%20c&d=",
            Dsn("amqp", (Host("Host"),), "us@er", PASSWORD, "/x", {"a": "b c", "d": ""}),
        ),
        ("AMQP://host", Dsn("amqp", hosts=(Host("host"),))),
    ],
)
def test_a_dsn_is_taken_apart_and_decoded_once(text: str, parsed: Dsn) -> None:
    assert Dsn.parse(text) == parsed


def test_a_percent_sign_that_was_encoded_twice_stays_encoded_once() -> None:
    assert Dsn.parse("amqp://u:a%2540b@h").password == "a%40b"


@pytest.mark.parametrize(
    "shown", [str, repr, lambda dsn: f"{dsn}", lambda dsn: dsn.masked], ids=["str", "repr", "format", "masked"]
)
def test_a_password_is_never_shown(shown: Callable[[Dsn], str]) -> None:
    dsn = Dsn.parse(f"amqp://user:{ENCODED}@host/x?password={ENCODED}&auth_token=abc&heartbeat=5")

    text = shown(dsn)

    assert "s3cr3t" not in text
    assert "abc" not in text
    assert "amqp://user:***@host/x?password=***&auth_token=***&heartbeat=5" in text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "begins with a scheme"),
        ("s3cr3t@host", "begins with a scheme"),
        ("amqp:s3cr3t", '"//" is missing behind "amqp:"'),
        ("amqp://u:s3cr3t/x@host", "the port of a host"),
        ("amqp://u:p#s3cr3t@host", 'has a "#"'),
        ("amqp://host:99999", "the port of a host"),
        ("amqp://host:x", "the port of a host"),
        ("amqp://[s3cr3t", "the host of this DSN cannot be read"),
        ("sqlite:///x?a=1&a=2", 'names the option "a" twice'),
    ],
)
def test_what_is_no_dsn_is_refused_without_showing_it(text: str, what: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Dsn.parse(text)

    assert what in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


@dataclass(frozen=True, kw_only=True)
class Options:
    name: str = "x"
    size: int = 1
    share: float = 0.5
    on: bool = True
    limit: int | None = None
    auth_token: int = 0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError('option "size" must not be negative')


def options(query: str = "", **given: object) -> Options:
    return options_from(Options, Dsn.parse(f"test://?{query}"), given, "async")


def test_options_come_from_the_dsn_and_from_the_configuration() -> None:
    assert options("size=5&share=0.25&on=no", name="y") == Options(name="y", size=5, share=0.25, on=False)


def test_the_dsn_wins_over_the_configuration() -> None:
    assert options("size=5", size=6).size == 5


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("size", "7", 7),
        ("size", "-0", 0),
        ("share", 2, 2.0),
        ("share", "1e3", 1000.0),
        ("limit", None, None),
        ("limit", "", None),
        ("limit", "3", 3),
        ("on", "1", True),
        ("on", "TRUE", True),
        ("on", "off", False),
        ("on", False, False),
    ],
)
def test_a_value_is_read_as_its_field_is_annotated(name: str, value: object, read: object) -> None:
    result = getattr(options(**{name: value}), name)

    assert result == read
    assert type(result) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("size", "many", "a whole number"),
        ("size", 1.5, "a whole number"),
        ("size", True, "a whole number"),
        ("size", "9" * 30, "a whole number"),
        ("size", None, "a whole number"),
        ("share", "nan", "a number"),
        ("share", "inf", "a number"),
        ("share", [], "a number"),
        ("on", "maybe", "true or false"),
        ("on", 1, "true or false"),
        ("name", 5, "a text"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(name: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        options(**{name: value})

    assert str(raised.value) == f'Transport "async": option "{name}" must be {wanted}, not "{value}"'


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError) as raised:
        options("sise=5")

    assert str(raised.value) == (
        'Transport "async": unknown option "sise"; options of "test" are: '
        '"auth_token", "limit", "name", "on", "share", "size"; did you mean "size"?'
    )


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        options("sise=5&on=maybe", share="x")

    assert len(raised.value.problems) == 3


def test_the_value_of_a_secret_option_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as raised:
        options("auth_token=s3cr3t")

    assert "s3cr3t" not in str(raised.value)


def test_a_check_of_the_options_themselves_names_the_transport() -> None:
    with pytest.raises(ConfigurationError) as raised:
        options("size=-1")

    assert str(raised.value) == 'Transport "async": option "size" must not be negative'
