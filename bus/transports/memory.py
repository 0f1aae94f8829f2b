"""``in-memory://``: a transport for tests and for trying things out. Its messages die with the process."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bus.clock import Clock
from bus.transports.base import (
    Ack,
    Claim,
    Counts,
    Delivery,
    Discard,
    Outgoing,
    Park,
    Peeked,
    Requeue,
    Sent,
    Settlement,
)
from bus.transports.dsn import Dsn, options_from

if TYPE_CHECKING:
    from bus.transports.registry import DriverContext


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """Options of an in-memory transport.

    Attributes:
        serialize: Symfony's option. Messages are always written to bytes and read back here, so only true is
            possible.
    """

    serialize: bool = True

    def __post_init__(self) -> None:
        if not self.serialize:
            raise ValueError('option "serialize" cannot be false: messages are always serialized here')


def create(name: str, dsn: Dsn, options: Mapping[str, object], context: DriverContext) -> MemoryDriver:
    """Build the driver of an ``in-memory://`` transport. Each transport has messages of its own."""
    options_from(MemoryOptions, dsn, options, name)
    return MemoryDriver(name, context.clock)


@dataclass(slots=True)
class _Stored:
    """A message that the driver keeps. It is ready or delayed where it is neither claimed nor parked."""

    id: int
    outgoing: Outgoing
    available_at: float
    deliveries: int = 0
    claim: Claim | None = None
    parked: bool = False

    @property
    def place(self) -> tuple[int, float, int]:
        """The order of delivery: priority, then time, then id."""
        return (-self.outgoing.priority, self.available_at, self.id)


class MemoryDriver:
    """Keeps encoded messages in this process. Thread-safe.

    After ``close`` it goes on with the messages that it has. For tests it remembers what happened:

    Attributes:
        sent: every message sent, in order.
        acknowledged: the deliveries that were acknowledged.
        rejected: the deliveries that were discarded.
    """

    def __init__(self, queue: str, clock: Clock) -> None:
        self.sent: list[Outgoing] = []
        self.acknowledged: list[Delivery] = []
        self.rejected: list[Delivery] = []
        self._queue = queue
        self._clock = clock
        self._lock = threading.RLock()
        self._ids = itertools.count(1)
        self._messages: dict[int, _Stored] = {}
        # Entries of messages that were taken or requeued meanwhile stay in the heaps and are skipped when met.
        self._ready: list[tuple[int, float, int]] = []
        self._delayed: list[tuple[float, int]] = []
        self._wakes: list[Callable[[], None]] = []
        self._alarm: threading.Timer | None = None
        self._alarm_at = 0.0

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent]:
        """Keep the messages; nothing can fail."""
        with self._lock:
            sent = []
            for outgoing in batch:
                stored = _Stored(next(self._ids), outgoing, self._due(outgoing))
                self._messages[stored.id] = stored
                self._enqueue(stored)
                sent.append(Sent(stored.id))
            self.sent.extend(batch)
        self._tell()
        return sent

    def get(self, limit: int) -> Sequence[Delivery]:
        """Claim what is due, by priority and then in the order in which it became due."""
        deliveries: list[Delivery] = []
        with self._lock:
            self._move_due()
            while self._ready and len(deliveries) < limit:
                stored = self._next_ready()
                if stored is None or (deliveries and stored.deliveries):
                    break
                heapq.heappop(self._ready)
                deliveries.append(self._claim(stored))
                if stored.deliveries > 1:
                    break
        return deliveries

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        """Carry out settlements; a claim that no longer holds its message is lost."""
        lost: list[Claim] = []
        with self._lock:
            for settlement in batch:
                stored = self._messages.get(int(settlement.claim.transport_id))
                if stored is None or stored.claim is not settlement.claim:
                    lost.append(settlement.claim)
                else:
                    self._settle(stored, settlement)
        if any(isinstance(each, Requeue) for each in batch):
            self._tell()
        return lost

    def give_back(self) -> None:
        """Give every message that was not begun back to its old place, uncounted."""
        with self._lock:
            for stored in self._messages.values():
                if stored.claim is not None and stored.claim.withdraw_unless_begun():
                    stored.deliveries -= 1
                    self._release(stored)

    def close(self) -> None:
        """Give every claimed message back to its old place: those not begun uncounted."""
        with self._lock:
            self.give_back()
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            for stored in self._messages.values():
                if stored.claim is not None:
                    stored.claim.withdraw()
                    self._release(stored)

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after each send, from the sender's thread, and when a delayed message becomes due."""
        with self._lock:
            self._wakes.append(wake)
        self._tell()

    def counts(self) -> Counts:
        """Return the numbers at this moment."""
        states = [self._state(stored) for stored in self._snapshot()]
        return Counts(*(states.count(each) for each in ("ready", "delayed", "in_flight", "parked")))

    def peek(self, limit: int, after: str | int | None = None) -> Sequence[Peeked]:
        """Return messages in order of their id, claiming none."""
        behind = [stored for stored in self._snapshot() if after is None or stored.id > int(after)]
        return [
            Peeked(stored.id, stored.outgoing.body, stored.outgoing.headers, self._state(stored))
            for stored in behind[:limit]
        ]

    def take(self, transport_id: str | int) -> Delivery | None:
        """Claim this message, a parked or delayed one too."""
        with self._lock:
            stored = self._messages.get(int(transport_id)) if str(transport_id).isdecimal() else None
            return None if stored is None or stored.claim is not None else self._claim(stored)

    def _due(self, outgoing: Outgoing) -> float:
        return self._clock.now() + max(0, outgoing.delay_ms) / 1000

    def _enqueue(self, stored: _Stored) -> None:
        if stored.available_at > self._clock.now():
            heapq.heappush(self._delayed, (stored.available_at, stored.id))
        else:
            heapq.heappush(self._ready, stored.place)

    def _move_due(self) -> None:
        now = self._clock.now()
        while self._delayed and self._delayed[0][0] <= now:
            available_at, number = heapq.heappop(self._delayed)
            stored = self._messages.get(number)
            if stored is not None and stored.available_at == available_at:
                heapq.heappush(self._ready, stored.place)

    def _next_ready(self) -> _Stored | None:
        """Return the message at the head of the ready ones, leaving it there."""
        while self._ready:
            place = self._ready[0]
            stored = self._messages.get(place[2])
            if stored is not None and stored.place == place and stored.claim is None and not stored.parked:
                return stored
            heapq.heappop(self._ready)
        return None

    def _claim(self, stored: _Stored) -> Delivery:
        stored.deliveries += 1
        stored.claim = Claim(stored.id, stored.deliveries, self._queue)
        return Delivery(stored.outgoing.body, stored.outgoing.headers, stored.claim)

    def _release(self, stored: _Stored) -> None:
        stored.claim = None
        if not stored.parked:
            self._enqueue(stored)

    def _settle(self, stored: _Stored, settlement: Settlement) -> None:
        delivery = Delivery(stored.outgoing.body, stored.outgoing.headers, settlement.claim)
        match settlement:
            case Ack():
                self.acknowledged.append(delivery)
                del self._messages[stored.id]
            case Discard():
                self.rejected.append(delivery)
                del self._messages[stored.id]
            case Requeue(_, outgoing) | Park(_, outgoing):
                stored.outgoing, stored.claim, stored.deliveries = outgoing, None, 0
                stored.available_at = self._due(outgoing)
                stored.parked = isinstance(settlement, Park)
                if not stored.parked:
                    self._enqueue(stored)

    def _state(self, stored: _Stored) -> str:
        if stored.claim is not None:
            return "in_flight"
        if stored.parked:
            return "parked"
        return "delayed" if stored.available_at > self._clock.now() else "ready"

    def _snapshot(self) -> list[_Stored]:
        with self._lock:
            return list(self._messages.values())

    def _tell(self) -> None:
        """Wake the listeners if something is ready, and again when the next delayed message becomes due."""
        if not self._wakes:
            return
        with self._lock:
            self._move_due()
            wakes = list(self._wakes) if self._ready else []
            if self._delayed:
                self._set_alarm(self._delayed[0][0])
        for wake in wakes:
            wake()

    def _set_alarm(self, due: float) -> None:
        if self._alarm is not None and self._alarm.is_alive():
            if self._alarm_at <= due and self._alarm is not threading.current_thread():
                return
            self._alarm.cancel()
        self._alarm = threading.Timer(max(0.0, due - self._clock.now()), self._tell)
        self._alarm.daemon = True
        self._alarm_at = due
        self._alarm.start()
