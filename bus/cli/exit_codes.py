"""What the exit codes of the command mean."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
CONFIGURATION: Final = 3
UNREACHABLE: Final = 4
CRASH_LOOP: Final = 5
GRACE_EXCEEDED: Final = 6

MEANINGS: Final = {
    DONE: "done, or a limit was reached",
    FAILED: "something failed in a command that does one thing and ends",
    USAGE: "the command line is wrong",
    CONFIGURATION: "the configuration is wrong, or there is none",
    UNREACHABLE: "a transport cannot be reached, or refuses the credentials",
    CRASH_LOOP: "worker processes keep dying before they are ready",
    GRACE_EXCEEDED: "handlers were still running when the time to shut down was over",
}


def listing() -> str:
    """Return the codes as a paragraph for the help; the mark keeps click from wrapping it."""
    lines = [f"  {code}  {meaning}" for code, meaning in MEANINGS.items()]
    return "\n".join(["\b", "Exit codes:", *lines])
