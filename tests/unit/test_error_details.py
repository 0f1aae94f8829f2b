"""What is kept of an error is bounded, readable, and harmless to make."""

from __future__ import annotations

import itertools
import json

import pytest

from bus import aio
from bus.envelope import Envelope
from bus.error_details import error_details, with_error, with_smaller_errors
from bus.errors import ConfigurationError, HandlerFailedError
from bus.messages import MessageTypes, UndecodableMessage
from bus.serializer import EncodedEnvelope, JsonSerializer
from bus.stamps import ErrorDetailsStamp
from bus.transports.dsn import Dsn

SYMFONYS_KEYS = [
    "message",
    "code",
    "headers",
    "class",
    "file",
    "line",
    "previous",
    "status",
    "status_text",
    "trace",
    "trace_as_string",
]


class CardDeclinedError(Exception):
    """An error of an application."""


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    password = "hunter2"  # noqa: F841 - a local variable that must not be kept
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def raised_while_handling(*, hidden: bool) -> BaseException:
    error = raised(ValueError("v"))
    error.__context__ = KeyError("k")
    error.__suppress_context__ = hidden
    return error


def flat(error: BaseException) -> dict[str, object]:
    flattened = error_details(error).flatten_exception
    assert flattened is not None
    return dict(flattened)


def test_the_class_is_named_by_module_and_name() -> None:
    assert error_details(CardDeclinedError()).exception_class == f"{__name__}.CardDeclinedError"


def test_a_builtin_class_is_named_as_python_names_it() -> None:
    assert error_details(ValueError()).exception_class == "ValueError"


def test_the_code_is_the_number_that_the_operating_system_gave() -> None:
    assert error_details(FileNotFoundError(2, "No such file", "orders.jsonl")).exception_code == 2
    assert error_details(OSError("without a number")).exception_code == 0
    assert error_details(ValueError(2)).exception_code == 0


def test_the_flat_form_has_symfonys_keys_and_says_where_it_happened() -> None:
    described = flat(raised(CardDeclinedError("declined")))
    assert list(described) == SYMFONYS_KEYS
    assert described["message"] == "declined"
    assert (described["status"], described["status_text"]) == (500, "Internal Server Error")
    assert described["file"] == __file__
    assert described["line"] == raised.__code__.co_firstlineno + 3
    trace = described["trace"]
    assert isinstance(trace, list)
    assert trace[0] == {
        "namespace": "",
        "short_class": "",
        "class": "",
        "type": "",
        "function": "raised",
        "file": __file__,
        "line": described["line"],
        "args": [],
    }
    assert str(described["trace_as_string"]).startswith("Traceback (most recent call last):\n")
    assert str(described["trace_as_string"]).endswith(f"{__name__}.CardDeclinedError: declined")


def test_the_trace_begins_where_the_application_begins() -> None:
    def charge() -> None:
        raise CardDeclinedError("declined")

    with pytest.raises(CardDeclinedError) as failure:
        aio.blocking(charge)
    error = failure.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # as in a worker, which calls the handler from the package
    trace = flat(error)["trace"]
    assert isinstance(trace, list)
    assert [frame["function"] for frame in trace] == ["charge"]


def test_the_trace_is_whole_where_no_code_of_the_application_failed() -> None:
    with pytest.raises(ConfigurationError) as failure:
        Dsn.parse("no dsn")
    error = failure.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert str(flat(error)["file"]).endswith("dsn.py")


def test_an_error_that_was_never_raised_has_no_place() -> None:
    described = flat(ValueError("made up"))
    assert (described["file"], described["line"], described["trace"]) == ("", 0, [])
    assert described["trace_as_string"] == "ValueError: made up"


def test_values_of_local_variables_are_not_kept() -> None:
    assert "hunter2" not in json.dumps(flat(raised(CardDeclinedError("declined"))))


def test_the_cause_is_kept_and_so_is_what_was_being_handled() -> None:
    described = flat(raised(CardDeclinedError("declined"), cause=TimeoutError("bank")))
    previous = described["previous"]
    assert isinstance(previous, dict)
    assert (previous["class"], previous["message"]) == ("TimeoutError", "bank")
    context = flat(raised_while_handling(hidden=False))["previous"]
    assert isinstance(context, dict)
    assert context["class"] == "KeyError"


def test_a_hidden_context_stays_hidden() -> None:
    assert flat(raised_while_handling(hidden=True))["previous"] is None


def test_a_chain_of_causes_is_bounded_and_may_be_a_ring() -> None:
    errors = [ValueError(str(number)) for number in range(1000)]
    for one, other in itertools.pairwise(errors):
        one.__cause__ = other
    errors[-1].__cause__ = errors[0]
    assert len(json.dumps(flat(errors[0]))) < 3000
    ring = ValueError("ring")
    ring.__cause__ = ring
    assert flat(ring)["previous"] is None


def test_of_a_failed_handler_the_first_real_cause_is_described() -> None:
    inner = HandlerFailedError(Envelope(object()), {"second": CardDeclinedError("declined")})
    failed = HandlerFailedError(Envelope(object()), {"first": inner, "other": ValueError("v")})
    details = error_details(failed)
    assert details.exception_class == f"{__name__}.CardDeclinedError"
    assert details.exception_message == "declined"


def test_a_group_names_itself_and_its_first_error() -> None:
    details = error_details(ExceptionGroup("several", [CardDeclinedError("declined"), ValueError("v")]))
    assert details.exception_class == "ExceptionGroup"
    assert details.exception_message == "several (2 sub-exceptions)"
    assert details.flatten_exception is not None
    previous = details.flatten_exception["previous"]
    assert isinstance(previous, dict)
    assert previous["message"] == "declined"


class Text(str):
    __slots__ = ()

    def __getitem__(self, key: object) -> str:
        raise SystemExit

    def __len__(self) -> int:
        raise SystemExit


def hostile(text: object) -> BaseException:
    class HostileError(Exception):
        def __str__(self) -> str:
            if isinstance(text, BaseException):
                raise text
            return text  # type: ignore[return-value]

        __repr__ = __str__

    return raised(HostileError("h"))


@pytest.mark.parametrize("text", [SystemExit(), KeyboardInterrupt(), RecursionError(), ValueError(), None, 7, b"bytes"])
def test_a_text_that_cannot_be_read_is_said_to_be_so(text: object) -> None:
    details = error_details(hostile(text))
    assert details.exception_message == "(its text cannot be read: __str__ raises)"
    assert details.exception_class.endswith("HostileError")
    assert details.flatten_exception is not None


def test_a_text_with_methods_of_its_own_is_only_text() -> None:
    assert error_details(hostile(Text("declined"))).exception_message == "declined"


def test_an_attribute_that_raises_leaves_out_the_trace_only() -> None:
    class HostileError(OSError):
        @property
        def errno(self) -> int:  # type: ignore[override]
            raise SystemExit

    details = error_details(HostileError("broken pipe"))
    assert details.flatten_exception is None
    assert details.exception_message == "broken pipe"


def test_a_class_with_an_odd_module_still_has_a_name() -> None:
    class OddError(Exception):
        pass

    OddError.__module__ = 7  # type: ignore[assignment]
    assert error_details(OddError()).exception_class.endswith("OddError")


def test_ten_megabytes_of_text_are_cut() -> None:
    details = error_details(raised(ValueError("x" * 10_000_000)))
    assert len(details.exception_message) == 8192
    assert details.exception_message.endswith("...")
    assert len(json.dumps(details.flatten_exception)) < 12 * 1024


def test_a_text_is_measured_in_bytes_and_cut_between_characters() -> None:
    text = error_details(ValueError("\N{SNOWMAN}" * 5000)).exception_message
    assert 8150 < len(text.encode()) <= 8192
    assert set(text) == {"\N{SNOWMAN}", "."}


def test_a_text_that_is_no_unicode_is_made_unicode() -> None:
    assert error_details(ValueError("bad \ud800 text")).exception_message == "bad ? text"


def test_a_deep_recursion_is_a_short_trace() -> None:
    def recurse() -> None:
        recurse()

    try:
        recurse()
    except RecursionError as error:
        described = flat(error)
    assert len(json.dumps(described)) < 8 * 1024


def test_a_chain_that_is_too_large_loses_its_causes_first() -> None:
    described = flat(
        raised(ValueError("a" * 9000), cause=raised(ValueError("b" * 9000), raised(ValueError("c" * 9000))))
    )
    assert described["previous"] is None
    assert described["trace"]


def test_details_survive_the_wire() -> None:
    serializer = JsonSerializer(MessageTypes())
    details = error_details(raised(CardDeclinedError("declined \N{SNOWMAN} \x00"), TimeoutError()))
    encoded = serializer.encode(Envelope(UndecodableMessage(b"?", {}, "r"), (details,)))
    assert serializer.decode_raw(EncodedEnvelope(encoded.body, encoded.headers), "r").last(ErrorDetailsStamp) == details


# --- the history of a message ---


def codes(envelope: Envelope) -> list[object]:
    return [each.exception_message for each in envelope.all(ErrorDetailsStamp)]


def test_the_same_error_again_is_not_kept_twice() -> None:
    envelope = with_error(Envelope(object()), raised(ValueError("one")))
    envelope = with_error(envelope, raised(ValueError("one")))
    assert codes(envelope) == ["one"]
    envelope = with_error(with_error(envelope, ValueError("two")), ValueError("one"))
    assert codes(envelope) == ["one", "two", "one"]


def test_the_last_ten_errors_are_kept() -> None:
    envelope = Envelope(object())
    for number in range(14):
        envelope = with_error(envelope, ValueError(number))
    assert codes(envelope) == [str(number) for number in range(4, 14)]


def test_a_longer_history_from_elsewhere_is_cut_to_ten() -> None:
    stamps = tuple(ErrorDetailsStamp("C", 0, str(number)) for number in range(50))
    assert codes(with_error(Envelope(object(), stamps), ValueError("new"))) == [*map(str, range(41, 50)), "new"]


def test_a_history_shrinks_from_its_oldest_trace_to_the_last_error() -> None:
    envelope = Envelope(object(), tuple(ErrorDetailsStamp("C", number, "m", {"t": 1}) for number in range(3)))
    steps = [
        [(each.exception_code, each.flatten_exception is not None) for each in smaller.all(ErrorDetailsStamp)]
        for smaller in with_smaller_errors(envelope)
    ]
    assert steps == [
        [(0, False), (1, True), (2, True)],
        [(0, False), (1, False), (2, True)],
        [(0, False), (1, False), (2, False)],
        [(1, False), (2, False)],
        [(2, False)],
    ]


def test_a_message_without_errors_has_no_smaller_history() -> None:
    assert not list(with_smaller_errors(Envelope(object())))
