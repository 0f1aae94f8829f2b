from __future__ import annotations

import subprocess
import sys
import time

import pytest

from bus import failpoints
from bus.errors import BusError, ConfigurationError
from bus.testing.failpoints import arm_from_environment, armed, parse


def test_a_step_does_nothing_while_nothing_is_armed():
    failpoints.reach("handler_start")


def test_an_armed_step_raises_and_others_do_not():
    with armed("handler_end=raise"):
        failpoints.reach("handler_start")
        with pytest.raises(BusError, match='The failpoint "handler_end" was armed to raise'):
            failpoints.reach("handler_end")


def test_with_a_hit_count_the_action_is_taken_once():
    raised = []
    with armed("before_settle=raise@2"):
        for number in (1, 2, 3):
            try:
                failpoints.reach("before_settle")
            except BusError:
                raised.append(number)

    assert raised == [2]


def test_without_a_hit_count_the_action_is_taken_each_time():
    with armed("received=raise"):
        for _ in range(3):
            with pytest.raises(BusError):
                failpoints.reach("received")


def test_a_step_can_wait():
    began = time.monotonic()
    with armed("received=sleep:0.05"):
        failpoints.reach("received")

    assert time.monotonic() - began >= 0.05


def test_several_steps_are_separated_by_commas():
    assert [(each.step, each.hit) for each in parse("received=raise, after_settle=kill9@3,")] == [
        ("received", 0),
        ("after_settle", 3),
    ]


@pytest.mark.parametrize(("action", "code"), [("kill9", -9), ("exit", 1)])
def test_a_process_dies_at_the_armed_step(action, code):
    program = (
        "import os; from bus import failpoints; from bus.testing.failpoints import arm_from_environment;"
        f"os.environ['BUS_FAILPOINTS'] = 'handler_end={action}@2'; arm_from_environment();"
        "[print(failpoints.reach('handler_end'), flush=True) for _ in range(3)]"
    )

    died = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert (died.returncode, died.stdout, died.stderr) == (code, "None\n", "")


def test_an_environment_without_failpoints_arms_nothing():
    arm_from_environment({})

    failpoints.reach("received")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("handler_ent=raise", 'there is no step "handler_ent"; did you mean "handler_end"? Steps are "received", '),
        ("handler_end=rise", 'there is no action "rise"; did you mean "raise"? Actions are "kill9", "exit", "raise", '),
        ("handler_end", '"handler_end" is not of the form step=action or step=action@hit.'),
        ("handler_end=raise@x", '"handler_end=raise@x" is not of the form'),
        ("handler_end=sleep:long", '"sleep:long" needs a number of seconds, such as sleep:5.'),
    ],
)
def test_what_cannot_be_armed_is_refused_with_what_can(text, problem):
    with pytest.raises(ConfigurationError) as raised:
        parse(text)

    assert problem in str(raised.value)
