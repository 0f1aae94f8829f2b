"""Async handlers inside the synchronous stacks.

The stacks are plain functions. Where an ``async def`` handler may run, the stack runs in a greenlet on an event loop:
when a coroutine has to be awaited, the greenlet switches to the loop and comes back with the result, so that no thread
waits for a coroutine. Blocking calls of such a stack (sync handlers, sends) go to a pool of threads meanwhile.
SQLAlchemy's asyncio extension works the same way.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, cast

from greenlet import getcurrent, greenlet

from bus.errors import BusError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_POOL_SIZE = 64  # blocking calls that may wait at once; the worker's --concurrency bounds them before this does


class _SyncStack(greenlet):
    """A greenlet that runs a synchronous stack on a loop. It shares the context of the task that drives it."""

    def __init__(self, run: Callable[..., Any], parent: greenlet) -> None:
        super().__init__(run, parent)
        self.gr_context = parent.gr_context


def in_greenlet() -> bool:
    """Tell whether the caller is a synchronous stack that runs on an event loop."""
    return isinstance(getcurrent(), _SyncStack)


def on_running_loop() -> bool:
    """Tell whether the caller would block an event loop: it runs on one, outside a greenlet of ours."""
    return asyncio._get_running_loop() is not None and not in_greenlet()


async def run_in_greenlet(run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function in a greenlet on the running loop; what it waits for is awaited here."""
    stack = _SyncStack(run, getcurrent())
    result = stack.switch(*args, **kwargs)
    while not stack.dead:
        try:
            value = await result
        except BaseException as error:  # noqa: BLE001 - whatever a coroutine raises belongs to the stack that waits
            result = stack.throw(error)
        else:
            result = stack.switch(value)
    return cast("T", result)


def wait(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable: in a greenlet by switching to its loop, elsewhere on the process's own loop.

    Raises:
        BusError: the caller runs on an event loop, which it would block for ever.
    """
    current = getcurrent()
    if isinstance(current, _SyncStack):
        return cast("T", cast("greenlet", current.parent).switch(awaitable))
    if asyncio._get_running_loop() is not None:
        if isinstance(awaitable, Generator) or hasattr(awaitable, "close"):
            awaitable.close()
        raise BusError(
            'An "async def" handler cannot be awaited by a blocking call on a running event loop; '
            "use await bus.dispatch_async(...) there."
        )
    return process_loop().run(awaitable)


def blocking(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call that may block.

    In a greenlet a pool thread makes it, with a copy of the context, and the loop goes on; elsewhere it is just a call.
    """
    current = getcurrent()
    if not isinstance(current, _SyncStack):
        return call(*args, **kwargs)
    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(_pool(), context.run, _outcome, call, args, kwargs)
    value, error = cast("greenlet", current.parent).switch(future)
    if error is not None:
        raise error
    return cast("T", value)


def _outcome(
    call: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[T | None, BaseException | None]:
    # A future refuses StopIteration and lets SystemExit end its loop, so errors travel as values.
    try:
        return call(*args, **kwargs), None
    except BaseException as error:  # noqa: BLE001 - raised again by the one who waits
        return None, error


async def _awaited(awaitable: Awaitable[T]) -> tuple[T | None, BaseException | None]:
    try:
        return await awaitable, None
    except BaseException as error:  # noqa: BLE001 - raised again by the one who waits
        return None, error


class LoopThread:
    """An event loop on a daemon thread of its own, started when it is first needed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._inbox: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._drain_is_due = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="bus-loop", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[..., object], *args: object) -> None:
        """Run a synchronous function in a greenlet on the loop, soon. Thread-safe; what it raises is logged.

        Calls that come in a burst are handed over together: waking a loop costs more than a small handler.
        """
        self._inbox.append((call, args))
        if not self._drain_is_due:
            self._drain_is_due = True
            self._loop.call_soon_threadsafe(self._drain)

    def run(self, awaitable: Awaitable[T]) -> T:
        """Await something on the loop while the calling thread waits. The context of the caller is inherited."""
        future = asyncio.run_coroutine_threadsafe(_awaited(awaitable), self._loop)
        try:
            value, error = future.result()
        except BaseException:
            future.cancel()
            raise
        if error is not None:
            raise error
        return cast("T", value)

    def stop(self) -> None:
        """Stop the loop and wait for its thread; what still runs on it is cancelled. Idempotent."""
        if not self._stopping:
            self._stopping = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _drain(self) -> None:
        # The flag falls first: whoever appends after the last popleft sees it down and schedules the next drain.
        self._drain_is_due = False
        while self._inbox:
            call, args = self._inbox.popleft()
            task: asyncio.Task[object] = self._loop.create_task(
                run_in_greenlet(call, *args), context=contextvars.Context()
            )
            self._tasks.add(task)
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("A call on the event loop failed", exc_info=task.exception())

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._stopping:
            try:
                self._loop.run_forever()
            except BaseException:
                # A task that raises SystemExit ends run_forever; the loop lives as long as the process.
                logger.exception("A task raised through the event loop; the loop goes on")
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


class _Process:
    """What a process has one of. A forked child begins anew: it has none of its parent's threads."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.lock = threading.Lock()
        self.loop: LoopThread | None = None
        self.pool: ThreadPoolExecutor | None = None


_process = _Process()
os.register_at_fork(after_in_child=_process.forget)


def process_loop() -> LoopThread:
    """Return the one loop of this process, started now if need be."""
    with _process.lock:
        if _process.loop is None:
            _process.loop = LoopThread()
        return _process.loop


def _pool() -> ThreadPoolExecutor:
    with _process.lock:
        if _process.pool is None:
            _process.pool = ThreadPoolExecutor(_POOL_SIZE, thread_name_prefix="bus-blocking")
        return _process.pool
