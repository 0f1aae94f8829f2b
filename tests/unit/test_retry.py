from __future__ import annotations

import math

import pytest

from bus.envelope import Envelope
from bus.errors import ConfigurationError, HandlerFailedError, RecoverableError, UnrecoverableError
from bus.retry import RetryPolicy, causes_of, delay_before_retry

PLAIN = RetryPolicy(jitter=0)


def test_three_retries_are_four_attempts():
    assert [PLAIN.should_retry(attempt) for attempt in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize(
    "wrong", [{"max_retries": -1}, {"delay": -1}, {"multiplier": 0.5}, {"multiplier": math.nan}, {"jitter": 7}], ids=str
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=f'"{next(iter(wrong))}" of a retry policy'):
        RetryPolicy(**wrong)


def test_the_wait_doubles_from_one_second():
    assert [PLAIN.get_delay(attempt) for attempt in range(4)] == [1000, 2000, 4000, 8000]


def test_the_cap_holds_after_the_jitter():
    policy = RetryPolicy(delay=1000, max_delay=1500, jitter=1.0)

    assert max(policy.get_delay(3) for _ in range(200)) == 1500


def test_the_jitter_is_one_of_five_values():
    policy = RetryPolicy(delay=1000, multiplier=1, jitter=0.1)

    assert {policy.get_delay(0) for _ in range(500)} == {900, 950, 1000, 1050, 1100}


@pytest.mark.parametrize("attempt", [0, 1, 100, 1_000, 10**6, -5])
@pytest.mark.parametrize("multiplier", [1.0, 2.0, 1e9])
def test_no_attempt_overflows_the_wait(attempt, multiplier):
    delay = RetryPolicy(multiplier=multiplier).get_delay(attempt)

    assert 0 <= delay <= 30 * 24 * 3600 * 1000
    assert isinstance(delay, int)


def test_a_huge_wait_with_jitter_that_takes_everything_away_is_not_negative():
    assert all(RetryPolicy(jitter=1.0).get_delay(0) >= 0 for _ in range(100))


class Hopeless(UnrecoverableError):
    pass


class Busy(RecoverableError):
    pass


@pytest.mark.parametrize(
    ("error", "attempt", "expected"),
    [
        (ValueError(), 0, 1000),
        (ValueError(), 2, 4000),
        (ValueError(), 3, None),
        (Hopeless(), 0, None),
        (Busy(), 0, 1000),
        (Busy(), 3, None),
        (Busy(retry_delay=5), 1, 5),
        (Busy(retry_delay=5), 3, None),
        (Busy(retry_delay=-1), 0, 0),
        (ExceptionGroup("several", [Hopeless(), ValueError()]), 0, 1000),
        (ExceptionGroup("several", [Hopeless(), Hopeless()]), 0, None),
        (ExceptionGroup("several", [Hopeless(), Busy(retry_delay=7)]), 0, 7),
        (SystemExit(1), 0, 1000),
    ],
)
def test_the_kind_of_error_decides(error, attempt, expected):
    wrapped = HandlerFailedError(Envelope(object()), {"one": error})

    assert delay_before_retry(PLAIN, error, attempt) == expected
    assert delay_before_retry(PLAIN, wrapped, attempt) == expected


class OwnArithmetic:
    def should_retry(self, attempt: int) -> bool:
        return True

    def get_delay(self, attempt: int) -> float:
        return 1000 * 1.2345


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError(), 1234), (RecoverableError(retry_delay=0.75e3), 750)],  # type: ignore[arg-type]
)
def test_a_delay_is_whole_milliseconds_whoever_computed_it(error, expected):
    delay = delay_before_retry(OwnArithmetic(), error, 0)  # type: ignore[arg-type]

    assert (type(delay), delay) == (int, expected)


def test_all_handlers_must_be_hopeless_for_no_retry():
    mixed = HandlerFailedError(Envelope(object()), {"one": Hopeless(), "two": ValueError()})

    assert delay_before_retry(PLAIN, mixed, 0) == 1000


def test_the_causes_of_nested_groups_are_the_leaves():
    first, second = ValueError(), KeyError()
    group = ExceptionGroup("g", [ExceptionGroup("h", [first]), second])
    nested = HandlerFailedError(Envelope(object()), {"one": group})

    assert list(causes_of(nested)) == [first, second]
