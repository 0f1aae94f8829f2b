"""Named steps at which a test can make a process die, fail or wait.

The steps, in the order in which a message passes them:

- ``received``: the worker has claimed messages and begun none of them
- ``handler_start``: the attempt has begun; the message goes into the stack next
- ``claimed``: idempotency has claimed the message for one handler, which has not run yet
- ``handler_done``: the handler has returned; neither its work nor its sends are safe yet
- ``held_sent``: without a transaction, what the handler dispatched has been sent; no record says so yet
- ``before_commit``: the handler's work, its records and its sends stand in one transaction, not yet committed
- ``after_commit``: it is committed; nothing of the outbox has been sent
- ``relayed``: messages of the outbox have been sent; they still stand in it
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
    "claimed",
    "handler_done",
    "held_sent",
    "before_commit",
    "after_commit",
    "relayed",
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
