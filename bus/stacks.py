"""What every thread of this process does at this moment."""

from __future__ import annotations

import sys
import threading
import traceback


def show_stacks() -> None:
    """Print the stack of every thread to stderr. Blocks as long as nobody reads that."""
    # Not faulthandler's own signal handler: it reads the stacks while their threads change them, and can crash.
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        sys.stderr.write(f'Thread "{names.get(ident, ident)}":\n{stack}')
    sys.stderr.flush()
