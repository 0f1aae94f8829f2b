from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bus import aio
from bus.errors import BusError

current = contextvars.ContextVar("current", default="nothing")


async def later(value):
    await asyncio.sleep(0)
    return value


def test_a_stack_in_a_greenlet_waits_for_coroutines_without_a_thread():
    def stack():
        return aio.wait(later(1)) + aio.wait(later(2)), threading.current_thread()

    total, thread = asyncio.run(aio.run_in_greenlet(stack))

    assert total == 3
    assert thread is threading.current_thread()


def test_outside_a_loop_a_coroutine_runs_on_the_loop_of_the_process():
    async def thread_name():
        return threading.current_thread().name

    assert aio.wait(thread_name()) == "bus-loop"
    assert aio.process_loop() is aio.process_loop()


def test_waiting_on_a_running_loop_is_refused_instead_of_hanging():
    async def main():
        aio.wait(later(1))

    with pytest.raises(BusError, match=r"use await bus\.dispatch_async"):
        asyncio.run(main())


def test_a_blocking_call_of_a_greenlet_leaves_the_loop_free():
    turns = []

    async def tick(stop: asyncio.Event):
        while not stop.is_set():
            turns.append(1)
            await asyncio.sleep(0)

    async def main():
        stop = asyncio.Event()
        ticking = asyncio.create_task(tick(stop))
        released = threading.Event()
        asyncio.get_running_loop().call_later(0.02, released.set)
        wait = lambda: released.wait(5) and threading.current_thread()  # noqa: E731
        thread = await aio.run_in_greenlet(aio.blocking, wait)
        stop.set()
        await ticking
        return thread

    assert asyncio.run(main()) is not threading.current_thread()
    assert len(turns) > 10


def test_elsewhere_a_blocking_call_is_just_a_call():
    assert aio.blocking(threading.current_thread) is threading.current_thread()


def test_the_context_reaches_coroutines_and_pool_threads():
    async def read():
        return current.get()

    def stack():
        token = current.set("in the stack")
        try:
            return aio.wait(read()), aio.blocking(current.get)
        finally:
            current.reset(token)

    assert asyncio.run(aio.run_in_greenlet(stack)) == ("in the stack", "in the stack")
    current.set("outside")
    assert aio.wait(read()) == "outside"


@pytest.mark.parametrize(
    "error", [ValueError("v"), SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit()]
)
def test_whatever_is_raised_reaches_the_one_who_waits(error):
    async def fail():
        raise error

    def fail_blocking():
        raise error

    def stack(call):
        with pytest.raises((type(error), RuntimeError)):
            call()
        return "went on"

    if not isinstance(error, StopIteration):  # a coroutine cannot raise it: Python makes it a RuntimeError
        assert asyncio.run(aio.run_in_greenlet(stack, lambda: aio.wait(fail()))) == "went on"
        assert stack(lambda: aio.wait(fail())) == "went on"
    assert asyncio.run(aio.run_in_greenlet(stack, lambda: aio.blocking(fail_blocking))) == "went on"


def test_a_burst_of_submitted_calls_all_run():
    done = []
    finished = threading.Event()

    def call(number):
        aio.wait(later(number))
        done.append(number)
        if len(done) == 500:
            finished.set()

    loop = aio.process_loop()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: loop.submit(call, number), range(500)))

    assert finished.wait(10)
    assert sorted(done) == list(range(500))


def test_a_task_that_exits_does_not_end_the_loop():
    async def start_exiting_task():
        asyncio.get_running_loop().create_task(exit_()).add_done_callback(lambda task: task.exception())

    async def exit_():
        raise SystemExit(1)

    aio.wait(start_exiting_task())

    assert aio.wait(later("still here")) == "still here"


def test_a_loop_thread_stops_twice():
    loop = aio.LoopThread()
    assert loop.run(later(1)) == 1

    loop.stop()
    loop.stop()


def test_a_forked_child_has_a_loop_of_its_own():
    aio.process_loop()
    pid = os.fork()
    if pid == 0:
        ok = aio.wait(later("child")) == "child"
        os._exit(0 if ok else 1)

    deadline = time.monotonic() + 10
    while (status := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline
    assert status[1] == 0
