"""The Redis driver: who holds what, when the server is prepared, and what becomes of errors."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bus.errors import AccessDeniedError, ConfigurationError, TransportError
from bus.forking import forget_in_children
from bus.stamps import RedisReceivedStamp
from bus.transports.base import Claim, Counts, Delivery, Outgoing, Peeked, Sent, Settlement
from bus.transports.dsn import Dsn
from bus.transports.partitions import OwnedPartitions
from bus.transports.redis.arrivals import Arrivals
from bus.transports.redis.connection import NoSuchGroupError, Server
from bus.transports.redis.entries import from_value
from bus.transports.redis.heart import Heart
from bus.transports.redis.keys import Keys, Lane, origin_of
from bus.transports.redis.looking import Looking
from bus.transports.redis.options import Place, RedisOptions, transport_options
from bus.transports.redis.sending import Sender
from bus.transports.redis.server_check import missing, missing_group, set_up, warn_about
from bus.transports.redis.streams import Entry, GroupStreams, Held

if TYPE_CHECKING:
    from bus.store.ownership import Ownership
    from bus.transports.registry import DriverContext

logger = logging.getLogger(__name__)

_BETWEEN_RECONCILIATIONS: Final = 10.0  # seconds
_HEART_STOPS: Final = 1.0  # seconds that a beat which is under way gets when the driver is closed


class RedisClaim(Claim):
    """A claim on an entry, or on a message that was taken out of its place.

    It cannot begin when the server has not heard of this process for so long that others may have taken the message.
    """

    __slots__ = ("heart", "held")

    def __init__(self, transport_id: str, deliveries: int, origin: str, held: Held, heart: Heart, group: str) -> None:
        native = RedisReceivedStamp(held.lane.stream, group, held.id)
        super().__init__(transport_id, deliveries, origin, native, partition=held.lane.partition)
        self.held = held
        self.heart = heart

    def begin(self) -> bool:
        """Begin an attempt, unless the claim is withdrawn or the server has not been heard for too long."""
        if self.heart.is_over:
            self.withdraw_unless_begun()
        return super().begin()


def create(name: str, dsn: Dsn, options: Mapping[str, object], context: DriverContext) -> RedisDriver:
    """Build the driver of a ``redis://`` or ``rediss://`` transport."""
    checked, place = transport_options(name, dsn, options)
    ownership = None
    if checked.number_of_partitions:
        if context.ownership is None:
            raise ConfigurationError(
                f'Transport "{name}": partitions need a store beside the stream, and there is none'
            )
        ownership = context.ownership(place.store_dsn("bus:"), origin_of(checked.stream, checked.group))
    return RedisDriver(place, checked, ownership)


class RedisDriver:
    """Moves messages in and out of a stream, as one of its group. Thread-safe; ``get`` belongs to one thread.

    It connects when it is first used, and again after ``close``, under another consumer name. A forked child begins
    anew: it neither keeps, nor settles, nor gives back what its parent claimed.
    """

    def __init__(self, place: Place, options: RedisOptions, ownership: Ownership | None = None) -> None:
        """Without an ``ownership`` nothing is read from partitions."""
        self._options = options
        self._server = Server(place)
        self._keys = Keys(options.stream, options.group, cluster=place.is_cluster)
        self._streams = GroupStreams(self._server, self._keys, options)
        self._sender = Sender(self._server, self._streams, options)
        self._looking = Looking(self._streams)
        self._arrivals = Arrivals(self._server, self._keys.wake, lambda: self._streams.ahead(self._readable()))
        count = options.number_of_partitions
        self._partitions = OwnedPartitions(count, ownership, self) if ownership is not None else None
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self._claiming = threading.Lock()  # around claiming and giving back, so that close sees every claim
        self._held: dict[str, RedisClaim] = {}
        self._heart: Heart | None = None
        self._next_reconciliation = float("inf")
        self._group_was_there = False
        self._has_warned = False
        self._turn = 0

    # --- sending ---

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Store messages. Raises TransportError where nothing of the batch was tried."""
        return self._sender.send(batch)

    # --- receiving ---

    def get(self, limit: int) -> Sequence[Delivery]:
        """Claim what is due, in the order in which it became due.

        Raises:
            AccessDeniedError: there is no such group, and none may be made.
        """
        if limit <= 0:
            return ()
        if self._partitions is not None:
            self._partitions.start()
        with self._claiming:
            heart = self._started()
            began = time.monotonic()
            self._reconcile_now_and_then(heart, began)
            try:
                answer = self._streams.read(heart.consumer, self._readable(), limit)
            except NoSuchGroupError as error:
                raise AccessDeniedError(missing_group(self._options, self._server)) from error
            except TransportError:
                self._next_reconciliation = began
                raise
            heart.was_heard(began)
            deliveries = [each for each in map(self._delivery, answer.entries) if each is not None]
            self._note_the_group(created=answer.created)
        if answer.more:
            self._arrivals.tell()
        elif len(answer.entries) < limit:
            self._arrivals.wait_for_more()
        return deliveries

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` from a thread that waits on the server."""
        self._arrivals.on_arrival(wake)

    def take(self, transport_id: str | int) -> Delivery | None:
        """Claim this message, a parked or delayed one too; None when it is gone or held.

        Where the stream has several groups, one that none of this group has read yet cannot be taken.
        """
        place = self._keys.place(str(transport_id))
        if place is None or place.kind == "taken":
            return None
        with self._claiming:
            heart = self._started()
            began = time.monotonic()
            found = self._streams.take(heart.consumer, place, str(transport_id))
            heart.was_heard(began)
            if found is None:
                return None
            held, value, deliveries = found
            return self._claimed(held, value, deliveries, heart)

    def _started(self) -> Heart:
        if not self._has_warned:
            warn_about(self._server)
            self._has_warned = True
        if self._heart is None:
            self._heart = Heart(self._streams, self._options, self, os.getpid())
            self._heart.start()
            self._next_reconciliation = time.monotonic() + _BETWEEN_RECONCILIATIONS
        return self._heart

    def _delivery(self, entry: Entry) -> Delivery | None:
        if entry.value is None:
            logger.error('Entry "%s" of "%s" was trimmed before it was handled', entry.id, entry.lane.stream)
            return None
        assert self._heart is not None
        return self._claimed(Held(entry.lane, entry.id), entry.value, entry.deliveries, self._heart)

    def _claimed(self, held: Held, value: bytes, deliveries: int, heart: Heart) -> Delivery:
        own_id = held.id if held.taken else held.lane.prefix + held.id
        claim = RedisClaim(own_id, deliveries, self._keys.origin, held, heart, self._options.group)
        self._held[own_id] = claim
        return Delivery(*from_value(value), claim)

    def _reconcile_now_and_then(self, heart: Heart, now: float) -> None:
        """Give back what the answers that were lost held."""
        if now < self._next_reconciliation:
            return
        self._held = {key: claim for key, claim in self._held.copy().items() if not claim.withdrawn}
        found = self._streams.reconcile(heart.consumer, self.held())
        if found:
            logger.warning('%s messages of "%s" got lost on their way here, and come again', found, self._keys.origin)
        self._next_reconciliation = now + _BETWEEN_RECONCILIATIONS

    def _note_the_group(self, *, created: bool) -> None:
        if created and self._group_was_there:
            logger.error(
                'Group "%s" of stream "%s" was gone and was made again: what had been in the stream may be lost',
                self._options.group,
                self._options.stream,
            )
        elif created:
            logger.info('Group "%s" of stream "%s" was made', self._options.group, self._options.stream)
        self._group_was_there = True

    # --- partitions ---

    @property
    def ordered_window(self) -> int | None:
        """How many messages may wait behind failing ones in a partition; None: failing ones hold back none."""
        return self._options.ordered_window if self._options.ordered else None

    def pause(self, partitions: Collection[int]) -> None:
        """Hand out nothing of these partitions from now on, and of the others again."""
        if self._partitions is not None:
            self._partitions.pause(partitions)

    def partitions_in_use(self) -> Collection[int]:
        """Return nothing: how many partitions a stream has is the same for all that use it."""
        return ()

    def let_go(self, partitions: Collection[int]) -> Collection[int]:
        """Give back what is not begun; return the partitions of which nothing is in hand any more."""
        with self._claiming:
            held = [claim for claim in self._held.copy().values() if claim.partition in partitions]
            if self._heart is not None:
                self._release(self._heart, [claim for claim in held if claim.withdraw_unless_begun()])
            return set(partitions) - {claim.partition for claim in self._held.copy().values()}

    def left_by_others(self, partition: int) -> bool:
        """Tell whether another worker holds some of a partition; what the dead hold is freed in time."""
        return bool(set(self._streams.holders(self._keys.pair(partition))) - {self._consumer})

    @property
    def _consumer(self) -> str | None:
        heart = self._heart
        return heart.consumer if heart is not None else None

    def _readable(self) -> Sequence[Lane]:
        """Return the lanes that may be read now. They take turns, so that none starves."""
        pairs = [self._keys.pair(None)]
        if self._partitions is not None:
            pairs += [self._keys.pair(each) for each in sorted(self._partitions.open)]
            self._turn = (self._turn + 1) % len(pairs)
        return [lane for base, retry in (*pairs[self._turn :], *pairs[: self._turn]) for lane in (retry, base)]

    # --- what the heart asks ---

    def held(self) -> Sequence[Held]:
        """Return where the claimed messages stand."""
        return [claim.held for claim in self._held.copy().values() if not claim.withdrawn]

    def lose(self, lost: Sequence[Held]) -> None:
        """Withdraw the claims on messages that are somebody else's now."""
        gone = set(lost)
        for key, claim in self._held.copy().items():
            if claim.held in gone and not claim.settled:
                claim.withdraw()
                self._held.pop(key, None)
                logger.warning('Message "%s" of "%s" was taken over by another worker', key, self._keys.origin)

    # --- settling ---

    def settle(self, batch: Sequence[Settlement]) -> Sequence[Claim]:
        """Carry out settlements in one step."""
        ours = [
            (each.claim.held, each) for each in batch if isinstance(each.claim, RedisClaim) and self._holds(each.claim)
        ]
        settled: set[int] = set()
        heart = self._heart
        if ours and heart is not None:
            results = self._streams.settle(heart.consumer, ours)
            settled = {id(each.claim) for (_, each), done in zip(ours, results, strict=True) if done}
        return [each.claim for each in batch if not self._conclude(each.claim, settled)]

    def _holds(self, claim: Claim) -> bool:
        # By identity: the same entry may be held by a later claim of ours.
        return self._held.get(str(claim.transport_id)) is claim

    def _conclude(self, claim: Claim, settled: set[int]) -> bool:
        """Take note of what became of a claim; False when it is lost."""
        if not self._holds(claim):
            return False
        del self._held[str(claim.transport_id)]
        if id(claim) in settled:
            return True
        claim.withdraw()
        return False

    # --- giving back ---

    def give_back(self) -> None:
        """Give back, uncounted, what was not begun."""
        with self._claiming:
            heart = self._heart
            if heart is None:
                return
            unbegun = [claim for claim in self._held.copy().values() if claim.withdraw_unless_begun()]
            self._release(heart, unbegun)

    def _release(self, heart: Heart, claims: Iterable[RedisClaim]) -> None:
        counts = {claim.held: claim.deliveries - (not claim.begun) for claim in claims}
        if counts:
            self._streams.give_back(heart.consumer, counts)
        for claim in claims:
            self._held.pop(str(claim.transport_id), None)

    def close(self) -> None:
        """Give back what was not begun, let go of every claim and of the connections."""
        self._arrivals.stop()
        with self._claiming:
            heart, self._heart = self._heart, None
            if heart is not None:
                heart.stop()
                self._part(heart)
            self._held.clear()
        # Not before its messages are free; its thread may wait for the lock above.
        if self._partitions is not None:
            self._partitions.close()
        if heart is not None:
            heart.stop(_HEART_STOPS)
        self._server.close()

    def _part(self, heart: Heart) -> None:
        claims = list(self._held.copy().values())
        for claim in claims:
            claim.withdraw_unless_begun()
        try:
            self._release(heart, claims)
            self._streams.leave(heart.consumer)
        except TransportError as error:
            logger.warning(
                "%s messages could not be given back, and come back when their claims expire: %s", len(claims), error
            )
        for claim in claims:
            claim.withdraw()

    # --- looking ---

    def counts(self) -> Counts:
        """Count by state."""
        return Counts(*self._streams.counts())

    def peek(self, limit: int, after: str | int | None = None) -> Sequence[Peeked]:
        """Return messages in order: those of the streams, then what is delayed, parked, and taken by its id."""
        return self._looking.peek(limit, None if after is None else str(after))

    def set_up(self) -> None:
        """Create stream and group. Harmless when called again."""
        set_up(self._options, self._keys, self._server)

    def check(self) -> Sequence[str]:
        """Say what is missing."""
        return missing(self._options, self._keys, self._server)

    def forget(self) -> None:
        """Begin anew in a forked child, where no other thread runs."""
        for claim in self._held.values():
            claim.withdraw()
        self._arrivals.forget()
        self._sender.forget()
        if self._partitions is not None:
            self._partitions.forget()
        self._begin()
