"""A worker consumes in this process: until a limit, a signal or its supervisor ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bus.clock import SystemClock
from bus.life_line import LifeLine, Progress
from bus.limits import Limits, limit_memory
from bus.signals import stop_on_signals
from bus.stop_requests import StopRequests, stop_on_request
from bus.worker import Worker


def consume(
    worker: Worker,
    shutdown_timeout: float,
    limits: Limits | None,
    find_requests: Callable[[], StopRequests],
    life_line: LifeLine | None = None,
) -> None:
    """Run a worker until something ends it. Blocks; call it from the main thread.

    With a life-line it does what the supervisor says, and tells it how it ends: the supervisor replaces a worker that
    has used up its memory, and not one that another limit or a request has ended.
    """
    limits = limits or Limits()
    if life_line is None:
        limits.watch(worker, worker.events)
        with stop_on_request(worker.stop, find_requests), stop_on_signals(worker, shutdown_timeout):
            worker.run()
        return
    life_line.accompany(worker.events)
    replace(limits, memory=None).watch(worker, worker.events)
    memory = _MemoryLimit(worker)
    if limits.memory is not None:
        limit_memory(memory, worker.events, limits.memory, SystemClock())
    known = partial(life_line.report, Progress.LOOKED)
    with (
        stop_on_request(worker.stop, find_requests, life_line.stop_request, known),
        stop_on_signals(worker, shutdown_timeout, life_line) as watch,
    ):
        worker.run()
    if not watch.stopping:
        life_line.report(Progress.WORN_OUT if memory.reached else Progress.FINISHED)


class _MemoryLimit:
    """Stops a worker, and remembers that it did."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.reached = False

    def stop(self, reason: str) -> None:
        self.reached = True
        self._worker.stop(reason)

    def allow(self, messages: int) -> None:
        self._worker.allow(messages)
