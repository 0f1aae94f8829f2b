"""Named steps at which a test can make a process die, fail or wait.

The steps, in the order in which a message passes them:

- ``received``: the worker has claimed messages and begun none of them
- ``handler_start``: the attempt has begun; the message goes into the stack next
- ``handler_end``: the stack has returned or raised; nothing is settled
- ``before_settle``: settlements are about to reach the transport's server
- ``after_settle``: the server has carried them out
- ``before_failure``: a given-up message is about to be stored in the failure transport
- ``after_failure``: it is stored there; its original is not settled yet
- ``failed_retry_sent``: failed messages are back where they failed; they still stand in the failure transport

Nothing happens at a step until a test arms it: see ``bus.testing.failpoints``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

STEPS: Final = (
    "received",
    "handler_start",
    "handler_end",
    "before_settle",
    "after_settle",
    "before_failure",
    "after_failure",
    "failed_retry_sent",
)


class _Switch:
    __slots__ = ("action",)

    def __init__(self) -> None:
        self.action: Callable[[str], None] | None = None


_switch = _Switch()


def reach(step: str) -> None:
    """Say that a step is reached. One comparison, while nothing is armed."""
    if _switch.action is not None:
        _switch.action(step)


def arm(action: Callable[[str], None] | None) -> None:
    """Call ``action`` with the name of every step that this process reaches from now on; None: do nothing again."""
    _switch.action = action
