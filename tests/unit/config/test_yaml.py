"""What the file may look like as YAML."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from bus.config import loader
from bus.config.loader import Loaded

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]

BOTH = pytest.mark.parametrize("parser", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])


@BOTH
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'messenger.yaml:1:1: there is no "messenger:", at the top or under "framework:"'),
        ("# nothing\n", 'messenger.yaml:1:1: there is no "messenger:", at the top or under "framework:"'),
        ("framework: ~\n", 'messenger.yaml:1:1: there is no "messenger:", at the top or under "framework:"'),
        ("- messenger\n", "messenger.yaml:1:1: expected a map"),
        ("messenger\n", "messenger.yaml:1:1: expected a map"),
        ("messenger: {}\n---\nmessenger: {}\n", "messenger.yaml:2:1: a second document begins here"),
        ("messenger:\n\tstore: x\n", "messenger.yaml:2:1: this is not valid YAML: indent with spaces, not with tabs"),
        ("messenger:\n  store: %env(X)%\n", "messenger.yaml:2:10: this is not valid YAML: a text that begins with"),
        ("messenger:\n  store: @x\n", "messenger.yaml:2:10: this is not valid YAML: a text that begins with"),
        ('messenger:\n  store: "App\\Store"\n', "this is not valid YAML: in double quotes a backslash begins"),
        ("messenger:\n  store: a: b\n", 'messenger.yaml:2:11: this is not valid YAML: a ":" is not expected here'),
        ("messenger: [\n", "this is not valid YAML: "),
        ("messenger: {store: *missing}\n", "messenger.yaml:1:20: an alias has no anchor before it"),
        ("messenger: &all {aliases: *all}\n", "messenger.yaml:1:27: an alias stands inside of what it repeats"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_position(
    text: str, problem: str, parser: type, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_Loader", parser)

    (line,) = problems(text)

    assert problem in line
    assert line.startswith("messenger.yaml:")


@BOTH
def test_both_parsers_give_the_same_positions(parser: type, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_Loader", parser)

    config = load(
        """\
        messenger:
          transports: { async: 'sync://', "ünïcode": { dsn: 'sync://' } }
        """
    ).config

    assert config.locations["transports.async"] == "messenger.yaml:2:17"
    assert config.locations["transports.ünïcode.dsn"] == "messenger.yaml:2:48"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"messenger:\n  store: \xff\n", "messenger.yaml:2:10: the file is not UTF-8"),
        ("messenger: {}".encode("utf-16"), "messenger.yaml:1:1: the file is not UTF-8"),
        (b"messenger:\n  a\x00: b\n", "messenger.yaml:2:4: the character U+0000 is not allowed in YAML"),
        (b"messenger: {\x07}\n", "messenger.yaml:1:13: the character U+0007 is not allowed in YAML"),
        (b"#" * (1024 * 1024 + 1), "messenger.yaml:1:1: the file is larger than 1 MiB"),
    ],
)
def test_bytes_that_are_no_text_are_refused(text: bytes, problem: str, problems: Problems) -> None:
    assert problems(text) == [problem]


def test_a_byte_order_mark_is_not_part_of_the_text(load: Load) -> None:
    assert load("\ufeffmessenger: {store: 'sql://other'}").config.store == "sql://other"


def test_a_duplicate_key_is_an_error_that_names_the_first(problems: Problems) -> None:
    assert problems(
        """\
        messenger:
          transports:
            async: 'sync://'
            other: 'sync://'
            async: 'in-memory://'
        """
    ) == ['messenger.yaml:5:5 transports: duplicate key "async", first in line 3']


def test_a_key_that_is_no_text_is_an_error(problems: Problems) -> None:
    assert problems("messenger: {aliases: {[a]: b}}") == ["messenger.yaml:1:23 aliases: a key must be a text"]


def test_a_number_as_a_key_is_that_text(load: Load) -> None:
    assert load("messenger: {transports: {1: 'sync://'}}").config.transports.keys() == {"1"}


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system",
        "!!python/name:os.system",
        "!<tag:yaml.org,2002:python/object/new:os.system>",
    ],
)
@pytest.mark.parametrize("place", ["messenger: {store: TAG [x]}", "framework: {cache: TAG [x], messenger: {}}"])
def test_a_tag_that_makes_objects_of_python_ends_the_reading_wherever_it_stands(
    tag: str, place: str, problems: Problems
) -> None:
    (line,) = problems(place.replace("TAG", tag))

    assert line.endswith('a tag "!!python/..." makes objects of Python, which a configuration never does')


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("!php/const SOME_VALUE", 'the tag "!php/const" stands for something inside a PHP application'),
        ("!tagged_iterator x", 'the tag "!tagged_iterator" stands for something inside a PHP application'),
        ("!!binary aGVsbG8=", 'the tag "!!binary" is not used here'),
        ("!!timestamp 2026-01-01", 'the tag "!!timestamp" is not used here'),
        ("!!set {a}", 'the tag "!!set" is not used here'),
        ("!!int many", 'this is not what the tag "!!int" says'),
    ],
)
def test_other_tags_are_refused_in_the_parts_that_are_ours(value: str, problem: str, problems: Problems) -> None:
    (line,) = problems(f"messenger:\n  aliases: {{a: {value}}}")

    assert line.startswith("messenger.yaml:2:16 aliases.a: " + problem)


def test_tags_of_php_stand_in_other_parts_of_the_file(load: Load) -> None:
    loaded = load(
        """\
        services: {App\\Handlers: [!tagged_iterator app.handler]}
        framework: {messenger: {}, php_errors: {log: {!php/const \\E_NOTICE : !php/const A::B}}}
        """
    )

    assert len(loaded.notes) == 2


def test_tags_that_say_what_yaml_can_say_are_followed(load: Load) -> None:
    config = load(
        """\
        messenger:
          transports:
            async: {dsn: 'sync://', options: {a: !!str 1, b: !!int 2, c: !!float 3, d: ! 4, e: !!null '', f: !!map {}}}
        """
    ).config

    assert config.transports["async"].options == {"a": "1", "b": 2, "c": 3, "d": "4", "e": None, "f": {}}


def test_aliases_and_merge_keys_are_followed_and_explicit_keys_win(load: Load) -> None:
    transports = load(
        """\
        x-defaults: &patient {retry_strategy: {max_retries: 9}, max_deliveries: 7}
        x-others: &careful {max_deliveries: 5}
        messenger:
          transports:
            a: {<<: *patient, dsn: 'sync://'}
            b: {dsn: 'sync://', max_deliveries: 1, <<: [*careful, *patient]}
            c: {<<: [*careful, *patient], dsn: 'sync://'}
        """
    ).config.transports

    assert [transports[name].max_deliveries for name in "abc"] == [7, 1, 5]
    assert {transports[name].retry.max_retries for name in "abc"} == {9}


def test_a_merge_key_with_anything_but_maps_is_an_error(problems: Problems) -> None:
    assert problems("messenger: {transports: {<<: [x]}}") == [
        'messenger.yaml:1:31 transports: "<<" takes a map, or a list of maps, to merge'
    ]


def test_an_alias_bomb_is_refused(problems: Problems) -> None:
    levels = ["  a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

    (line,) = problems("messenger:\n" + "\n".join(levels))

    assert "more than 50000 values, those that aliases repeat included" in line


def test_more_than_a_hundred_aliases_are_refused(problems: Problems, load: Load) -> None:
    def text(aliases: int) -> str:
        return "x-a: &a sync://\nmessenger: {imports: [" + ", ".join(["*a"] * aliases) + "]}"

    assert "more than 100 aliases" in problems(text(101))[0]
    assert "more than 100 aliases" not in problems(text(100))[0]


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ("{a: ", "}")])
def test_nesting_is_bounded(open_: str, close: str, load: Load, problems: Problems) -> None:
    def text(levels: int) -> str:
        return f"x-deep: {open_ * levels}0{close * levels}\nmessenger: {{}}"

    load(text(49))
    assert "nested deeper than 50 levels" in problems(text(50))[0]
    assert "nested deeper than 50 levels" in problems(text(100_000))[0]


def test_the_number_of_values_is_bounded(problems: Problems) -> None:
    assert "more than 50000 values" in problems("messenger:\n" + "  - a\n" * 50_001)[0]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-7", -7),
        ("+7", 7),
        ("1_000", 1000),
        ("0", 0),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1.5e+3", 1500.0),
        ("word", "word"),
        ("y", "y"),
        ("=", "="),
        ("1.2.3", "1.2.3"),
        ("a:1", "a:1"),
        ("'no'", "no"),
        ('"017"', "017"),
    ],
)
def test_a_plain_value_on_which_all_readers_agree_is_taken(written: str, value: object, load: Load) -> None:
    config = load(f"messenger: {{transports: {{a: {{dsn: 'sync://', options: {{o: {written}}}}}}}}}").config

    assert config.transports["a"].options["o"] == value
    assert type(config.transports["a"].options["o"]) is type(value)


@pytest.mark.parametrize(
    ("written", "readings"),
    [
        ("no", '"no" is false to some readers of YAML and a text to others; write false, or put it in quotes'),
        ("On", '"On" is true to some readers of YAML and a text to others; write true, or put it in quotes'),
        ("1:30", '("1:30": 90 or a text)'),
        ("017", '("017": 15 or 17)'),
        ("089", '("089": a number or a text)'),
        ("0o17", '("0o17": 15 or a text)'),
        ("0b11", '("0b11": 3 or a text)'),
        ("1e3", '("1e3": 1000 or a text)'),
        ("1.5e3", '("1.5e3": 1500 or a text)'),
        ("2026-11-23", "a date is not the same to all readers of YAML; write the plain number, or put it in quotes"),
        ("9" * 31, "a number has at most 30 digits; put it in quotes if it is a text"),
    ],
)
def test_a_plain_value_on_which_readers_differ_is_refused_with_the_readings(
    written: str, readings: str, problems: Problems
) -> None:
    (line,) = problems(f"messenger: {{transports: {{a: {{dsn: 'sync://', options: {{o: {written}}}}}}}}}")

    assert line.startswith("messenger.yaml:1:59 transports.a.options.o: ")
    assert readings in line


def test_an_ambiguous_key_is_refused_as_well(problems: Problems) -> None:
    (line,) = problems("messenger: {transports: {on: 'sync://'}}")

    assert line.startswith('messenger.yaml:1:26 transports: "on" is true to some readers of YAML')


def test_what_is_ambiguous_in_other_parts_of_the_file_is_their_affair(load: Load) -> None:
    load("framework: {session: {cookie_secure: no}, messenger: {}}")
