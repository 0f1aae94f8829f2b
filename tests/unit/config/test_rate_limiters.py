from __future__ import annotations

from collections.abc import Callable

import pytest

from bus import Messenger, MessengerConfig, TransportConfig
from bus.config.loader import Loaded
from bus.rate_limit import RateLimit

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]

TRANSPORTS = "transports: {crm: {dsn: 'in-memory://', rate_limiter: calls}}"


@pytest.mark.parametrize(
    "text",
    [
        "messenger: {TRANSPORTS, rate_limiter: {calls: LIMIT}}",
        "framework: {messenger: {TRANSPORTS}, rate_limiter: {calls: LIMIT}}",
        "framework: {messenger: {TRANSPORTS}, rate_limiter: {enabled: true, limiters: {calls: LIMIT}}}",
        "framework: {messenger: {TRANSPORTS}}\nwhen@dev: {framework: {rate_limiter: {calls: LIMIT}}}",
        "framework: {rate_limiter: OTHER, messenger: {TRANSPORTS}}\nwhen@dev: {framework: {rate_limiter: NEW}}",
    ],
)
def test_limiters_stand_under_framework_or_under_messenger(text: str, load: Load) -> None:
    limit = "{policy: sliding_window, limit: 60, interval: '1 minute'}"
    places = {"TRANSPORTS": TRANSPORTS, "OTHER": "{calls: {policy: no_limit}}", "NEW": "{calls: LIMIT}", "LIMIT": limit}
    for place, written in places.items():
        text = text.replace(place, written)

    loaded = load(text)

    assert loaded.config.rate_limiters == {"calls": RateLimit(policy="sliding_window", limit=60, interval=60)}
    assert loaded.config.transports["crm"].rate_limiter == "calls"
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("written", "limit"),
    [
        ("{policy: no_limit}", RateLimit(policy="no_limit")),
        (
            "{policy: token_bucket, limit: 5000, rate: {interval: '15 minutes', amount: 500}}",
            RateLimit(policy="token_bucket", limit=5000, interval=900, amount=500),
        ),
        (
            "{policy: fixed_window, limit: '%env(int:MOST)%', interval: '1 hour'}",
            RateLimit(policy="fixed_window", limit=7, interval=3600),
        ),
    ],
)
def test_the_policies_of_symfony(written: str, limit: RateLimit, load: Load) -> None:
    loaded = load(f"framework: {{messenger: {{{TRANSPORTS}}}, rate_limiter: {{calls: {written}}}}}", MOST="7")

    assert loaded.config.rate_limiters == {"calls": limit}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{calls: {limit: 1, interval: '1 day'}}", 'calls.policy: a rate limiter needs a "policy"'),
        (
            "{calls: {policy: fixed_window, interval: '1 day'}}",
            'the policy "fixed_window" needs a "limit"',
        ),
        ("{calls: {policy: fixed_window, limit: 1}}", 'the policy "fixed_window" needs an "interval"'),
        ("{calls: {policy: token_bucket, limit: 1}}", 'the policy "token_bucket" needs an "interval" under "rate"'),
        ("{calls: {policy: fixed_window, limit: 1, interval: soon}}", 'expected an interval such as "30 seconds"'),
        ("{calls: {policy: fixed_window, limit: 0, interval: '1 day'}}", "calls.limit: expected a whole number from 1"),
        ("{calls: {policy: fixd_window}}", 'did you mean "fixed_window"?'),
        ("{calls: {policy: compound, limiters: [a, b]}}", 'the policy "compound" is not for transports'),
        ("{call: {policy: no_limit}}", 'there is no rate limiter "calls"'),
    ],
)
def test_what_is_wrong_with_a_limiter_is_told_with_its_place(written: str, problem: str, problems: Problems) -> None:
    lines = problems(f"framework: {{messenger: {{{TRANSPORTS}}}, rate_limiter: {written}}}")

    assert len(lines) == 1
    assert lines[0].startswith("messenger.yaml:1:")
    assert problem in lines[0]


def test_limiters_of_other_parts_of_the_application_are_left_alone(load: Load) -> None:
    loaded = load(
        "framework: {messenger: {transports: {a: 'sync://'}}, rate_limiter: "
        "{login: {policy: compound, limiters: [x]}, api: {policy: sliding_window, limit: 5, interval: '1 month'}}}"
    )

    assert loaded.config.rate_limiters == {}


def test_a_limiter_may_not_stand_in_two_places(problems: Problems) -> None:
    limit = "rate_limiter: {calls: {policy: no_limit}}"

    assert any("stands twice" in line for line in problems(f"framework: {{messenger: {{{limit}}}, {limit}}}"))


def test_in_python_a_transport_names_one_as_well() -> None:
    config = MessengerConfig(
        store="memory://",
        transports={
            "crm": TransportConfig(dsn="in-memory://", rate_limiter="calls"),
            "free": TransportConfig(dsn="in-memory://", rate_limiter="none"),
        },
        rate_limiters={"calls": RateLimit(limit=5, interval=60), "none": RateLimit(policy="no_limit")},
    )
    messenger = Messenger(config)

    limiter = messenger.transports["crm"].rate_limiter
    assert limiter is not None
    assert limiter.available() == (5, 0)
    assert messenger.transports["free"].rate_limiter is None
