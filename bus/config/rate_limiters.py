"""Rate limiters as Symfony's ``framework.rate_limiter`` writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from bus.config.keys import Free, Keys, MapOf, Text, Whole
from bus.durations import parse_duration
from bus.errors import ConfigurationError
from bus.rate_limit import POLICIES, RateLimit

# Symfony's, and no limit of ours: several limits at once.
_COMPOUND: Final = "compound"
_FORM: Final = re.compile(r"(?ai)\+?(\d{1,9})\s*(sec|second|min|minute|hour|day|week|fortnight)s?")
_SECONDS: Final = {
    "sec": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "fortnight": 1_209_600,
}
_ELSEWHERE: Final = "limits are kept in the shared store of the bus"


def _kept_elsewhere(_: object) -> str:
    return _ELSEWHERE


class MissingKeyError(ConfigurationError):
    """A rate limiter lacks a key. ``key`` is the one below the limiter."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


RATE_LIMITERS: Final = MapOf(
    doc='Rate limiters by name, for "rate_limiter" of a transport. Symfony writes them under "framework".',
    item=Keys(
        doc="How many messages may begin in which time.",
        keys={
            "policy": Text(
                choices=(*POLICIES, _COMPOUND),
                doc="Required: how is counted; compound, which is Symfony's, is not for transports.",
            ),
            "limit": Whole(minimum=1, doc="Required: how many messages in one interval; of a token bucket, its size."),
            "interval": Text(doc="Required for windows: their length, such as '1 minute' or '500ms'."),
            "rate": Keys(
                doc="Required for a token bucket: how it fills.",
                keys={
                    "interval": Text(doc="Required: how often it gets new tokens, such as '10 seconds'."),
                    "amount": Whole(minimum=1, default=RateLimit().amount, doc="How many it gets each time."),
                },
            ),
            "limiters": Free(doc="Symfony's; a transport has one limit."),
            "lock_factory": Free(doc=f"Symfony's; {_ELSEWHERE}.", note=_kept_elsewhere),
            "cache_pool": Free(doc=f"Symfony's; {_ELSEWHERE}.", note=_kept_elsewhere),
            "storage_service": Free(doc=f"Symfony's; {_ELSEWHERE}.", note=_kept_elsewhere),
        },
    ),
)


def rate_limit(values: Mapping[str, Any]) -> RateLimit | None:
    """Return the limit that the keys of one rate limiter describe; None: one that no transport can have.

    Raises:
        ConfigurationError: a key is missing or wrong.
    """
    policy = values.get("policy")
    if policy is None:
        raise MissingKeyError("policy", 'a rate limiter needs a "policy", such as "sliding_window"')
    if policy == _COMPOUND:
        return None
    if policy == "no_limit":
        return RateLimit(policy="no_limit")
    if "limit" not in values:
        raise MissingKeyError("limit", f'the policy "{policy}" needs a "limit"')
    windows = values if policy != "token_bucket" else values.get("rate", {})
    if "interval" not in windows:
        key = "interval" if windows is values else "rate"
        place = "" if windows is values else ' under "rate"'
        raise MissingKeyError(key, f'the policy "{policy}" needs an "interval"{place}, such as "1 minute"')
    interval = parse_interval(windows["interval"])
    return RateLimit(policy=policy, limit=values["limit"], interval=interval, amount=windows.get("amount", 1))


def parse_interval(text: str) -> float:
    """Return the seconds of an interval in Symfony's words ("15 minutes"), or in ours ("500ms").

    Raises:
        ConfigurationError: it is none.
    """
    match = _FORM.fullmatch(text.strip())
    if match:
        number, unit = match.groups()
        return float(int(number) * _SECONDS[unit.lower()])
    try:
        return parse_duration(text) / 1000
    except ConfigurationError:
        raise ConfigurationError(
            'expected an interval such as "30 seconds", "1 minute", "2 hours" or "500ms"'
        ) from None
