"""What a handler can do to its worker."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bus import RedeliveryStamp, UnrecoverableError
from bus.envelope import Envelope
from bus.stamps import ClaimStamp
from tests.faults.waiting import wait_until

Behaviour = Callable[[float, Envelope], None]


def _sleep(argument: float, envelope: Envelope) -> None:
    time.sleep(argument)


def _wait_for_release(argument: float, envelope: Envelope) -> None:
    """Wait until the test releases this process."""
    wait_until(release_of(os.getpid()).exists, "this process is released")


def release_of(pid: int) -> Path:
    """Return the file that releases a process, in the folder where it runs."""
    return Path(f"release-{pid}")


def _fail(argument: float, envelope: Envelope) -> None:
    """Fail in the first ``argument`` attempts."""
    redelivery = envelope.last(RedeliveryStamp)
    if redelivery is None or redelivery.retry_count < argument:
        raise ValueError("not yet")


def _refuse(argument: float, envelope: Envelope) -> None:
    raise UnrecoverableError("never")


def _never_return(argument: float, envelope: Envelope) -> None:
    threading.Event().wait()


def _hold_a_transaction(argument: float, envelope: Envelope) -> None:
    """Keep a write transaction open in the database of the transports."""
    connection = sqlite3.connect("bus.db", isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(argument)
        connection.execute("COMMIT")
    finally:
        connection.close()


# --- those that end the process ---


def _kill_itself(argument: float, envelope: Envelope) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _kill_itself_once(argument: float, envelope: Envelope) -> None:
    """Die at the first delivery; at the second one all is well."""
    stamp = envelope.last(ClaimStamp)
    if stamp is not None and stamp.claim.deliveries == 1:
        _kill_itself(argument, envelope)


def _hold_the_interpreter(argument: float, envelope: Envelope) -> None:
    """Spend years in one C call that lets no other thread run."""
    re.fullmatch("(a+)+b", "a" * 60)


def _leave_as_if_done(argument: float, envelope: Envelope) -> None:
    os._exit(0)


def _segfault(argument: float, envelope: Envelope) -> None:
    ctypes.string_at(0)


def _abort(argument: float, envelope: Envelope) -> None:
    os.abort()


def _overflow_the_stack(argument: float, envelope: Envelope) -> None:
    """Recurse in C, where the interpreter does not count."""
    sys.setrecursionlimit(10_000_000)
    nested: list[object] = []
    for _ in range(5_000_000):
        nested = [nested]
    repr(nested)


# --- those that look like it ---


def _eat_memory(argument: float, envelope: Envelope) -> None:
    bytearray(1 << 50)


def _exit(argument: float, envelope: Envelope) -> None:
    sys.exit(3)


def _raise_keyboard_interrupt(argument: float, envelope: Envelope) -> None:
    raise KeyboardInterrupt


def _raise_generator_exit(argument: float, envelope: Envelope) -> None:
    raise GeneratorExit


class _HostileTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)

    __repr__ = __str__


class _EndlessTextError(Exception):
    def __str__(self) -> str:
        return "x" * 50_000_000

    __repr__ = __str__


def _raise_hostile_text(argument: float, envelope: Envelope) -> None:
    raise _HostileTextError


def _raise_endless_text(argument: float, envelope: Envelope) -> None:
    raise _EndlessTextError


def _raise_group(argument: float, envelope: Envelope) -> None:
    raise ExceptionGroup("several", [ValueError("one"), ExceptionGroup("more", [_HostileTextError()])])


def _fork_and_return_in_the_child(argument: float, envelope: Envelope) -> None:
    """Let a child come back into the worker; the parent fails, so that only its decision counts."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        raise ValueError("the parent fails")


BEHAVIOURS: Mapping[str, Behaviour] = {
    "nothing": lambda argument, envelope: None,
    "sleep": _sleep,
    "wait for release": _wait_for_release,
    "fail": _fail,
    "refuse": _refuse,
    "never return": _never_return,
    "hold a transaction": _hold_a_transaction,
    "kill itself": _kill_itself,
    "kill itself once": _kill_itself_once,
    "hold the interpreter": _hold_the_interpreter,
    "leave as if done": _leave_as_if_done,
    "segfault": _segfault,
    "abort": _abort,
    "overflow the stack": _overflow_the_stack,
    "eat memory": _eat_memory,
    "exit": _exit,
    "raise KeyboardInterrupt": _raise_keyboard_interrupt,
    "raise GeneratorExit": _raise_generator_exit,
    "raise hostile text": _raise_hostile_text,
    "raise endless text": _raise_endless_text,
    "raise a group": _raise_group,
    "fork and return in the child": _fork_and_return_in_the_child,
}
