"""When a failed message is tried again, and when it is given up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bus.errors import (
    ConfigurationError,
    DelayedMessageHandlingError,
    HandlerFailedError,
    InProgressElsewhereError,
    RecoverableError,
    UnrecoverableError,
)

_LONGEST_DELAY = 30 * 24 * 3600 * 1000  # milliseconds; every transport keeps a delay of 30 days


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff, counted as Symfony counts: 3 retries are 4 attempts.

    Attributes:
        max_retries: how often a failed message is tried again; 0 never.
        delay: milliseconds before the first retry.
        multiplier: by how much each further wait is longer.
        max_delay: cap of a wait in milliseconds; 0 is no cap of its own (30 days at the most).
        jitter: share of the wait, 0 to 1, that is randomly added or taken, as one of five values.
    """

    max_retries: int = 3
    delay: int = 1000
    multiplier: float = 2.0
    max_delay: int = 0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        ranges = {
            "max_retries": (self.max_retries >= 0, "0 or more"),
            "delay": (self.delay >= 0, "0 or more milliseconds"),
            "multiplier": (self.multiplier >= 1, "1 or more"),
            "max_delay": (self.max_delay >= 0, "0 or more milliseconds"),
            "jitter": (0 <= self.jitter <= 1, "from 0 to 1"),
        }
        problems = [
            f'The "{name}" of a retry policy is {getattr(self, name)}; it must be {valid}.'
            for name, (is_valid, valid) in ranges.items()
            if not is_valid
        ]
        if problems:
            raise ConfigurationError(*problems)

    def should_retry(self, attempt: int) -> bool:
        """Tell whether a message that was retried ``attempt`` times is tried once more."""
        return attempt < self.max_retries

    def get_delay(self, attempt: int) -> int:
        """Return the milliseconds to wait before the next try of a message that was retried ``attempt`` times."""
        cap = min(self.max_delay or _LONGEST_DELAY, _LONGEST_DELAY)
        try:
            wait = self.delay * self.multiplier ** max(attempt, 0)
        except OverflowError:
            return cap
        # Five values, not a continuum: a broker with one queue per delay needs few of them.
        wait += wait * self.jitter * random.choice((-1.0, -0.5, 0.0, 0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
        return int(min(max(wait, 0.0), cap))


class RetryStrategy(Protocol):
    """What decides on retries: a RetryPolicy, or an object of your own."""

    def should_retry(self, attempt: int, /) -> bool:
        """Tell whether a message that was retried ``attempt`` times is tried once more."""

    def get_delay(self, attempt: int, /) -> int:
        """Return the milliseconds to wait before that."""


def delay_before_retry(policy: RetryStrategy, error: BaseException, attempt: int) -> int | None:
    """Decide on a message that was retried ``attempt`` times and failed again.

    Return the milliseconds to wait, or None to give up. A RecoverableError is tried again within ``max_retries``, with
    its own delay if it has one; when all causes are Unrecoverable there is no retry; otherwise the policy decides.
    What is in progress elsewhere has not failed and has no say.
    """
    causes = [each for each in causes_of(error) if not isinstance(each, InProgressElsewhereError)]
    recoverable = next((each for each in causes if isinstance(each, RecoverableError)), None)
    if recoverable is None and all(isinstance(each, UnrecoverableError) for each in causes):
        return None
    if not policy.should_retry(attempt):
        return None
    delay = recoverable.retry_delay if recoverable is not None else None
    if delay is None:
        delay = policy.get_delay(attempt)
    # Whole milliseconds are what a transport can write, and one's own arithmetic easily makes others.
    return int(max(0, min(delay, _LONGEST_DELAY)))


def is_in_progress_elsewhere(error: BaseException) -> bool:
    """Tell whether nothing failed: every handler that did not succeed is in progress elsewhere."""
    return all(isinstance(each, InProgressElsewhereError) for each in causes_of(error))


def causes_of(error: BaseException) -> Sequence[BaseException]:
    """Return what really failed: the errors of the handlers, of an exception group, or the error itself."""
    if isinstance(error, HandlerFailedError):
        return [cause for each in error.errors.values() for cause in causes_of(each)]
    if isinstance(error, DelayedMessageHandlingError):
        return [cause for each in error.errors for cause in causes_of(each)]
    if isinstance(error, BaseExceptionGroup):
        return [cause for each in error.exceptions for cause in causes_of(each)]
    return [error]
