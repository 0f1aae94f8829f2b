"""How a message that waits for its batch gives up its place in the worker, and gets one again."""

from __future__ import annotations

from collections.abc import Callable

from bus.batches import Batches
from bus.clock import Clock
from bus.lanes import Lanes, ReceivedMessage
from bus.window import Window


class WorkerSeat:
    """The place of one running message. Used on the loop; ``move_on`` starts what may start then."""

    __slots__ = ("_clock", "_lanes", "_left_at", "_message", "_move_on", "_window", "batches")

    def __init__(
        self,
        batches: Batches,
        message: ReceivedMessage,
        lanes: Lanes,
        window: Window,
        clock: Clock,
        move_on: Callable[[ReceivedMessage], None],
    ) -> None:
        self.batches = batches
        self._message = message
        self._lanes = lanes
        self._window = window
        self._clock = clock
        self._move_on = move_on
        self._left_at = 0.0

    @property
    def may_leave(self) -> bool:
        """Whether it may wait for others: a suspect may not, for what it kills would take them with it."""
        return not self._message.suspect and self._message in self._lanes.running

    def leave(self) -> None:
        """Give the place to another message."""
        self._left_at = self._clock.monotonic()
        self._window.stepped_aside()
        self._lanes.step_aside(self._message)
        self._move_on(self._message)

    def ask_back(self, resume: Callable[[], object]) -> None:
        """Have ``resume`` called, from any thread, once there is a place for this message again."""

        def go_on() -> None:
            self._window.came_back()
            if self._message.begun_at is not None:
                # Waiting is no work: the window follows the time that handling takes.
                self._message.begun_at += self._clock.monotonic() - self._left_at
            resume()

        self._message.resume = go_on
        self._lanes.come_back(self._message)
        self._move_on(self._message)
