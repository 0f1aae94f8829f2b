"""Which of the received messages may be handled now."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bus.envelope import Envelope
from bus.ordered import RestingLanes
from bus.transports.base import Claim

LaneKey: TypeAlias = tuple[int, str]


@dataclass(slots=True, eq=False)
class ReceivedMessage:
    """A message in the hands of a worker, from its arrival until its settlement.

    Attributes:
        envelope: the message as its receiver gave it.
        claim: the right to handle it.
        receiver: the position of its receiver; a lower one goes first.
        key: its partition key.
        begun_at: when its attempt began, on the worker's monotonic clock; None before, and where its claim was lost.
        result: what the stack made of it: an envelope, what was raised, or None where nothing is left to settle.
        resume: lets its stack go on, which has stepped aside until there is a place for it again.
        again_at: when it is begun again, where it waits in place after an attempt; None otherwise.
    """

    envelope: Envelope
    claim: Claim
    receiver: int
    key: str | None = None
    begun_at: float | None = None
    result: Envelope | BaseException | None = None
    resume: Callable[[], object] | None = None
    again_at: float | None = None
    suspect: bool = field(init=False)

    def __post_init__(self) -> None:
        # It was delivered before and never settled: it may be what killed that worker.
        self.suspect = self.claim.deliveries > 1


class Lanes:
    """Decides which of the received messages is handled next.

    At most ``concurrency`` at once. Receivers in their order; messages of one partition key of one receiver one after
    the other, as they came, without holding back others; a suspect when nothing else is held that could run, and then
    alone. Thread-safe; the attributes may be read without more.

    Attributes:
        running: the messages whose attempts run.
        aside: the messages that have begun and wait without a place, for the rest of their batch.
        ready: how many could begin at once, suspects excepted.
        waiting: how many have not begun.
        resting: the lanes that wait until a failed message is tried again in place.
        suspects: how many suspects are held, running ones included.
        allowance: how many may still begin; None: any number.
        closed: nothing begins any more.
    """

    __slots__ = (
        "_alone",
        "_concurrency",
        "_followers",
        "_lock",
        "_ready",
        "_returning",
        "_waiting_suspects",
        "allowance",
        "aside",
        "closed",
        "ready",
        "resting",
        "running",
        "suspects",
        "waiting",
    )

    def __init__(self, receivers: int, concurrency: int) -> None:
        self._concurrency = concurrency
        self.running: set[ReceivedMessage] = set()
        self.aside: set[ReceivedMessage] = set()
        self.ready = 0
        self.waiting = 0
        self.suspects = 0
        self.resting = RestingLanes()
        self.allowance: int | None = None
        self.closed = False
        self._lock = threading.Lock()  # held for a few instructions
        self._ready: tuple[deque[ReceivedMessage], ...] = tuple(deque() for _ in range(receivers))
        self._returning: deque[ReceivedMessage] = deque()
        self._waiting_suspects: deque[ReceivedMessage] = deque()
        # For each key in hand: those behind the one that is ready or running.
        self._followers: dict[LaneKey, deque[ReceivedMessage]] = {}
        self._alone = False

    @property
    def suspect_is_next(self) -> bool:
        """Whether nothing but a suspect could begin now."""
        return bool(self._waiting_suspects) and not self.ready and not self.running and not self.aside

    def take_in(self, messages: Sequence[ReceivedMessage]) -> None:
        """Line messages up behind those that came earlier."""
        with self._lock:
            for message in messages:
                self.waiting += 1
                if message.suspect:
                    self.suspects += 1
                if message.key is None:
                    self._line_up(message)
                elif (followers := self._followers.get((message.receiver, message.key))) is not None:
                    followers.append(message)
                    self.resting.follow((message.receiver, message.key))
                else:
                    self._followers[message.receiver, message.key] = deque()
                    self._line_up(message)

    def begin_next(self, *, suspects: bool) -> ReceivedMessage | None:
        """Return the next message that may run and count it as running, or None; suspects only where wanted.

        Those go first that have begun before and stepped aside, and they go on when nothing else may begin any more.
        """
        with self._lock:
            if self._returning and len(self.running) < self._concurrency:
                message = self._returning.popleft()
                self.aside.remove(message)
                self.running.add(message)
                return message
            if self.closed or self._alone or self.allowance == 0 or len(self.running) >= self._concurrency:
                return None
            if self.ready:
                message = self._first_ready()
            elif suspects and self._waiting_suspects and not self.running and not self.aside:
                message = self._waiting_suspects.popleft()
                self._alone = True
            else:
                return None
            if self.allowance is not None:
                self.allowance -= 1
            self.waiting -= 1
            self.running.add(message)
            return message

    def step_aside(self, message: ReceivedMessage) -> None:
        """Take a running message's place away, for others to run meanwhile. It has to come back, and end."""
        with self._lock:
            self.running.remove(message)
            self.aside.add(message)

    def come_back(self, message: ReceivedMessage) -> None:
        """Line a message up for a place that has stepped aside."""
        with self._lock:
            self._returning.append(message)

    def end(self, message: ReceivedMessage) -> None:
        """Take note that a message has left the worker's hands; the next of its lane may run."""
        with self._lock:
            self._leave(message)
            if message.key is not None:
                followers = self._followers[message.receiver, message.key]
                if followers:
                    self._line_up(followers.popleft())
                else:
                    del self._followers[message.receiver, message.key]

    def rest(self, message: ReceivedMessage) -> None:
        """Have a message wait in place until ``again_at``, and those of its lane behind it."""
        assert message.key is not None
        message.claim.rest()
        with self._lock:
            self._leave(message)
            # It has ended an attempt, so it is not what kills workers.
            message.suspect = False
            message.begun_at = message.result = None
            self.waiting += 1
            lane = message.receiver, message.key
            self.resting.add(lane, message, len(self._followers[lane]))

    def rouse(self, now: float) -> None:
        """Line up the resting messages that are due."""
        with self._lock:
            for lane, message in self.resting.due(now):
                self.resting.remove(lane, len(self._followers[lane]))
                message.again_at = None
                self._line_up(message)

    # --- the caller holds the lock ---

    def _leave(self, message: ReceivedMessage) -> None:
        self.running.remove(message)
        if self.allowance is not None and message.begun_at is None:
            self.allowance += 1
        if message.suspect:
            self.suspects -= 1
            self._alone = False

    def _line_up(self, message: ReceivedMessage) -> None:
        if message.suspect:
            self._waiting_suspects.append(message)
        else:
            self._ready[message.receiver].append(message)
            self.ready += 1

    def _first_ready(self) -> ReceivedMessage:
        self.ready -= 1
        return next(each for each in self._ready if each).popleft()
