"""Make a worker die, fail or wait at a named step, to see that nothing is lost.

    BUS_FAILPOINTS="handler_end=kill9@3" bus consume async

kills the worker with SIGKILL when the step ``handler_end`` is reached for the third time. Several are separated by
commas. Actions: ``kill9`` (SIGKILL), ``exit`` (leave at once with code 1), ``raise`` (a BusError), ``sleep:5``
(wait for 5 seconds). Without ``@hit`` the action is taken each time. The steps are listed in ``bus.failpoints``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bus import failpoints
from bus.errors import BusError, ConfigurationError, did_you_mean, quoted

VARIABLE: Final = "BUS_FAILPOINTS"


@dataclass(frozen=True, slots=True)
class Failpoint:
    """What to do at a step. ``hit`` counts from 1 in each process; 0 is every time."""

    step: str
    action: Callable[[str], None]
    hit: int = 0


def arm_from_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Arm the failpoints that ``BUS_FAILPOINTS`` names; does nothing when it is not set.

    Raises:
        ConfigurationError: a step or an action does not exist.
    """
    text = environment.get(VARIABLE)
    if text:
        failpoints.arm(_Armed(parse(text)))


@contextmanager
def armed(text: str) -> Iterator[None]:
    """Arm failpoints in this process for the length of a ``with`` block."""
    failpoints.arm(_Armed(parse(text)))
    try:
        yield
    finally:
        failpoints.arm(None)


def parse(text: str) -> list[Failpoint]:
    """Read ``step=action@hit,...``.

    Raises:
        ConfigurationError: a step or an action does not exist.
    """
    return [_failpoint(entry.strip()) for entry in text.split(",") if entry.strip()]


class _Armed:
    def __init__(self, points: list[Failpoint]) -> None:
        self._points: dict[str, list[Failpoint]] = {}
        for point in points:
            self._points.setdefault(point.step, []).append(point)
        self._hits: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, step: str) -> None:
        points = self._points.get(step)
        if points is None:
            return
        with self._lock:
            self._hits[step] += 1
            hit = self._hits[step]
        for point in points:
            if point.hit in (0, hit):
                point.action(step)


def _failpoint(entry: str) -> Failpoint:
    step, equals, rest = entry.partition("=")
    name, at, count = rest.partition("@")
    if not equals or (at and not count.isdecimal()):
        raise ConfigurationError(f'{VARIABLE}: "{entry}" is not of the form step=action or step=action@hit.')
    if step not in failpoints.STEPS:
        raise ConfigurationError(
            f'{VARIABLE}: there is no step "{step}"{did_you_mean(step, failpoints.STEPS)} '
            f"Steps are {quoted(failpoints.STEPS)}."
        )
    return Failpoint(step, _action(name), int(count) if at else 0)


def _action(name: str) -> Callable[[str], None]:
    word, colon, seconds = name.partition(":")
    if word == "sleep" and colon:
        try:
            wait = float(seconds)
        except ValueError:
            raise ConfigurationError(f'{VARIABLE}: "{name}" needs a number of seconds, such as sleep:5.') from None
        return lambda step: time.sleep(wait)
    if name in _ACTIONS:
        return _ACTIONS[name]
    raise ConfigurationError(
        f'{VARIABLE}: there is no action "{name}"{did_you_mean(name, _ACTIONS)} '
        f'Actions are {quoted(_ACTIONS)}, "sleep:<seconds>".'
    )


def _kill(step: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(step: str) -> None:
    os._exit(1)


def _raise(step: str) -> None:
    raise BusError(f'The failpoint "{step}" was armed to raise.')


_ACTIONS: Final[Mapping[str, Callable[[str], None]]] = {"kill9": _kill, "exit": _exit, "raise": _raise}
