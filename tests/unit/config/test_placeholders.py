"""``%env(...)%`` with Symfony's processors, ``%parameter%`` and ``${NAME:-default}``."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from bus.config.loader import Loaded

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]
Option = Callable[..., object]
Problem = Callable[..., str]


def with_option(written: str, parameters: str) -> str:
    quoted = written.replace("'", "''")
    return f"parameters: {parameters}\nmessenger: {{transports: {{a: {{dsn: 'sync://', options: {{o: '{quoted}'}}}}}}}}"


@pytest.fixture
def option(load: Load) -> Option:
    """Return a function that gives what a written value becomes."""

    def option(written: str, parameters: str = "{}", **variables: str) -> object:
        return load(with_option(written, parameters), **variables).config.transports["a"].options["o"]

    return option


@pytest.fixture
def problem(problems: Problems) -> Problem:
    """Return a function that gives the one problem of a written value, without its position."""

    def problem(written: str, parameters: str = "{}", **variables: str) -> str:
        (line,) = problems(with_option(written, parameters), **variables)
        return line.removeprefix("messenger.yaml:2:59 transports.a.options.o: ")

    return problem


@pytest.mark.parametrize(
    ("written", "value", "expected"),
    [
        ("%env(X)%", "5", "5"),
        ("%env(string:X)%", "5", "5"),
        ("%env(int:X)%", "5", 5),
        ("%env(int:X)%", " -05 ", -5),
        ("%env(int:X)%", "1e3", 1000),
        ("%env(float:X)%", "5", 5.0),
        ("%env(float:X)%", "1.5e-3", 0.0015),
        ("%env(bool:X)%", "true", True),
        ("%env(bool:X)%", "ON", True),
        ("%env(bool:X)%", "2", True),
        ("%env(bool:X)%", "0.0", False),
        ("%env(bool:X)%", "no", False),
        ("%env(bool:X)%", "", False),
        ("%env(not:X)%", "yes", False),
        ("%env(not:bool:X)%", "off", True),
        ("%env(json:X)%", '{"a": [1, null, true, 1.5]}', {"a": [1, None, True, 1.5]}),
        ("%env(json:X)%", "null", None),
        ("%env(csv:X)%", 'a,"b,c",d', ["a", "b,c", "d"]),
        ("%env(csv:X)%", "", []),
        ("%env(trim:X)%", "\t a \n", "a"),
        ("%env(base64:X)%", base64.b64encode("grün?".encode()).decode(), "grün?"),
        ("%env(base64:X)%", base64.urlsafe_b64encode(b"\x3e\x3f?>").decode().rstrip("="), "\x3e\x3f?>"),
        ("%env(urlencode:X)%", "p@ss/w:rd ~", "p%40ss%2Fw%3Ard%20~"),
        ("%env(query_string:X)%", "amqp://h/?a=1&b=x%20y", {"a": "1", "b": "x y"}),
        ("%env(query_string:X)%", "a=1&b=", {"a": "1", "b": ""}),
        ("%env(key:host:url:X)%", "amqp://u:p%40@db.example:5/v", "db.example"),
        ("%env(int:key:port:url:X)%", "amqp://u:p%40@db.example:5/v", 5),
        ("%env(key:pass:url:X)%", "amqp://u:p%40@db.example:5/v", "p@"),
        ("%env(key:path:url:X)%", "amqp://u:p%40@db.example:5/v", "v"),
        ("%env(key:1:csv:X)%", "a,b", "b"),
        ("%env(key:a:key:b:json:X)%", '{"b": {"a": 7}}', 7),
        ("%env(defined:X)%", "1", True),
        ("%env(defined:X)%", "", False),
        ("%env(default:fallback:X)%", "set", "set"),
        ("%env(default:fallback:X)%", "", "of the parameter"),
        ("%env(default::X)%", "", None),
        ("%env(int:default:number:X)%", "", 9),
        ("%env(default:fallback:key:a:json:X)%", "{}", "of the parameter"),
        ("%env(resolve:X)%", "%fallback%, 100%%, %env(X2)%", "of the parameter, 100%, two"),
        ("a-%env(X)%-b", "5", "a-5-b"),
        ("a-%env(int:X)%-b", "05", "a-5-b"),
        ("${X}", "5", "5"),
        ("a-${X}", "5", "a-5"),
        ("${X:-no}", "5", "5"),
        ("${X:-no}", "", "no"),
        ("${X:-}", "", ""),
        ("${X:-%fallback%}", "", "of the parameter"),
        ("${X:-${X2}}", "", "two"),
        ("${X:-a}b}", "", "ab}"),
        ("%fallback%", "", "of the parameter"),
        ("%number%", "", 9),
        ("%list%", "", [1, "two"]),
        ("%number%-%env(X2)%-${X2}", "", "9-two-two"),
        ("100%", "", "100%"),
        ("50%% of %number%", "", "50% of 9"),
        ("$${X}", "5", "${X}"),
        ("$X {X}", "5", "$X {X}"),
        ("%kernel.project_dir%/var", "", "/srv/shop/var"),
        ("%kernel.environment%", "", "dev"),
    ],
)
def test_what_a_placeholder_becomes(written: str, value: str, expected: object, option: Option) -> None:
    parameters = "{fallback: of the parameter, number: 9, list: [1, '%env(X2)%']}"

    found = option(written, parameters, X=value, X2="two")

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("%env(defined:X)%", False),
        ("%env(default:fallback:X)%", "fall"),
        ("%env(default::X)%", None),
        ("%env(int:default::X)%", 0),
        ("%env(bool:default::X)%", False),
        ("%env(string:default::X)%", ""),
        ("%env(trim:default::X)%", None),
        ("${X:-d}", "d"),
    ],
)
def test_what_a_variable_that_is_not_set_becomes_where_that_is_allowed(
    written: str, expected: object, option: Option
) -> None:
    assert option(written, "{fallback: fall}") == expected


def test_a_parameter_may_give_the_default_of_a_variable(option: Option) -> None:
    assert option("%env(int:X)%", "{env(X): '7'}") == 7
    assert option("%env(int:X)%", "{env(X): '7'}", X="8") == 8
    assert option("${X}", "{env(X): '7'}") == "7"


def test_a_file_is_read_from_the_folder_of_the_project(tmp_path: Path, option: Option, problem: Problem) -> None:
    secret = tmp_path / "dsn.txt"
    secret.write_text("sync://\n")

    assert option("%env(file:X)%", X=str(secret)) == "sync://\n"
    assert option("%env(trim:file:X)%", X=str(secret)) == "sync://"
    assert option("%env(default:none:file:X)%", "{none: n}", X=str(tmp_path / "missing")) == "n"
    assert problem("%env(file:X)%", X="missing") == 'the file that the variable "X" names does not exist'
    assert problem("%env(file:X)%", X=str(tmp_path)) == 'the file that the variable "X" names cannot be read as text'


def test_what_a_variable_gives_is_not_looked_at_again(option: Option) -> None:
    assert option("%env(X)%", X="%env(X)% ${X} %%") == "%env(X)% ${X} %%"
    assert option("${X}-", X="${X}%X%") == "${X}%X%-"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("%env(X)%", 'the environment variable "X" is not set'),
        ("a ${X}", 'the environment variable "X" is not set'),
        ("${X:-${Y}}", 'the environment variable "Y" is not set'),
        ("${X:-${X}}", 'the environment variable "X" is not set'),
        ("${X:-${X:-a}}", 'a placeholder leads back to itself: "X" -> "X"'),
        ("%env(int:X)%", 'the environment variable "X" is not set'),
        ("%env(key:a:json:X)%", 'the environment variable "X" is not set'),
        ("%env(default:none:X)%", 'there is no parameter "none"; a "%" that is meant as such is written "%%"'),
        ("%fallbck%", 'there is no parameter "fallbck"; did you mean "fallback"?; a "%" that is meant as such'),
        ("%circle%", 'a placeholder leads back to itself: "circle" -> "round" -> "circle"'),
        ("%env(default:round:X)%", 'a placeholder leads back to itself: "round" -> "circle" -> "round"'),
        ("x%list%", '"list" stands inside a text and must be a text or a number'),
        ("%env()%", "there is no name of a variable in %env(...)%"),
        ("%env(:X)%", "unknown processor in %env(...)%; valid are "),
        ("%env(in:X)%", 'unknown processor in %env(...)%; did you mean "int"?'),
        ("%env(const:X)%", "unknown processor in %env(...)%"),
        ("%env(key:X)%", 'the processor "key" needs a key: %env(key:a key:NAME)%'),
        ("%env(" + "trim:" * 30 + "X)%", "more than 20 processors in one %env(...)%"),
        ("${X", '"${" is not closed by "}"; a "${" that is meant as such is written "$${"'),
        ("${}", "expected ${NAME} or ${NAME:-default}"),
        ("${X?no}", "expected ${NAME} or ${NAME:-default}"),
        ("${a b}", "expected ${NAME} or ${NAME:-default}"),
    ],
)
def test_a_placeholder_that_cannot_be_replaced_is_an_error(written: str, said: str, problem: Problem) -> None:
    parameters = "{fallback: f, circle: 'a %round%', round: '%circle%', list: [1]}"

    assert problem(written, parameters).startswith(said)


@pytest.mark.parametrize(
    ("processor", "value", "expected"),
    [
        ("int", "hunter2", "a whole number"),
        ("int", "1.5", "a whole number"),
        ("int", "", "a whole number"),
        ("float", "hunter2", "a number"),
        ("float", "nan", "a number"),
        ("float", "1e999", "a number"),
        ("bool", "hunter2", "true or false"),
        ("json", "{hunter2", "valid JSON"),
        ("json", "[" * 100_000, "valid JSON"),
        ("json", '"hunter2"', "a list or map in JSON"),
        ("base64", "hunter2!", "base64 of a UTF-8 text"),
        ("base64", "/w==", "base64 of a UTF-8 text"),
        ("url", "hunter2", "a URL with scheme and host"),
        ("url", "http://[hunter2", "a URL"),
        ("url", "http://h:hunter2/", "a URL"),
        ("key:a", "hunter2", "a list or a map to take a key from"),
    ],
)
def test_an_invalid_value_names_the_variable_and_what_was_expected_and_nothing_else(
    processor: str, value: str, expected: str, problem: Problem
) -> None:
    assert problem(f"%env({processor}:X)%", X=value) == f'the variable "X" does not hold {expected}'


def test_a_map_from_a_variable_is_bounded_as_the_file_is(problem: Problem) -> None:
    said = problem("%env(json:X)%", X="[" * 60 + "]" * 60)

    assert said == 'the value of "X" is nested deeper than 50 levels'


def test_a_key_of_a_map_is_not_replaced(problems: Problems) -> None:
    (line,) = problems("messenger: {aliases: {'%env(X)%': shop.A}}", X="a")

    assert line.endswith("this does not look like a name; placeholders are only replaced in values")


def test_what_comes_from_a_variable_has_the_type_of_its_processor(load: Load, problems: Problems) -> None:
    text = "messenger: {{transports: {{a: {{dsn: 'sync://', retry_strategy: {{max_retries: '{}'}}}}}}}}"

    assert load(text.format("%env(int:X)%"), X="7").config.transports["a"].retry.max_retries == 7
    (line,) = problems(text.format("%env(X)%"), X="7")
    assert line.endswith(
        'max_retries: expected a whole number from 0, but the value of "X" is a text; write "%env(int:X)%"'
    )


def test_the_notation_that_knows_no_types_fits_where_a_number_or_a_flag_is_expected(
    load: Load, problems: Problems
) -> None:
    text = """\
        messenger:
          transports: {{a: {{dsn: 'sync://', retry_strategy: {{max_retries: '{0}', jitter: '{0}'}}}}}}
          buses: {{b: {{default_middleware: {{allow_no_handlers: '{0}'}}}}}}
        """

    config = load(text.format("${X:-1}")).config
    assert config.transports["a"].retry.max_retries == config.transports["a"].retry.jitter == 1
    assert config.buses["b"].allow_no_handlers is True
    assert len(problems(text.format("${X}"), X="hunter2")) == 3


def test_a_number_from_a_variable_is_not_shown_when_it_is_out_of_range(problems: Problems) -> None:
    (line,) = problems(
        "messenger: {transports: {a: {dsn: 'sync://', retry_strategy: {jitter: '%env(float:X)%'}}}}", X="4711"
    )

    assert line.endswith('jitter: expected a number from 0 to 1, but the value of "X" is another number')


def test_an_empty_variable_is_named_where_a_text_is_needed(problems: Problems) -> None:
    (line,) = problems("messenger: {transports: {a: '%env(X)%'}}", X="")

    assert line == 'messenger.yaml:1:29 transports.a.dsn: the value of "X" must not be empty'


def test_every_unset_variable_is_reported_and_causes_nothing_else(problems: Problems) -> None:
    assert problems(
        """\
        messenger:
          failure_transport: failed
          transports: {a: '%env(A)%', failed: '%env(F)%', b: {dsn: '${B}', options: '%env(json:O)%'}}
          routing: {shop.A: '%env(R)%'}
        """
    ) == [
        'messenger.yaml:3:19 transports.a: the environment variable "A" is not set',
        'messenger.yaml:3:39 transports.failed: the environment variable "F" is not set',
        'messenger.yaml:3:60 transports.b.dsn: the environment variable "B" is not set',
        'messenger.yaml:3:77 transports.b.options: the environment variable "O" is not set',
        'messenger.yaml:4:21 routing.shop.A: the environment variable "R" is not set',
    ]


def test_a_parameter_called_after_a_variable_is_its_default(option: Option) -> None:
    parameters = "{env(X): of the parameter}"

    assert option("%env(X)%", parameters) == "of the parameter"
    assert option("%env(X)%", parameters, X="real") == "real"
