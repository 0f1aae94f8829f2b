"""One group's view of a stream: every method is one step on the server."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bus.transports.base import Ack, Discard, Outgoing, Park, Requeue, Settlement
from bus.transports.redis import looking_scripts, scripts, upkeep_scripts
from bus.transports.redis.connection import Argument, Server
from bus.transports.redis.entries import FIELD, to_value
from bus.transports.redis.keys import Keys, Lane, Place
from bus.transports.redis.options import RedisOptions

_PAGE: Final = 200  # messages that are looked at together
LIFE: Final = 10.0  # seconds that a consumer is taken for alive after it was heard of


class Held(NamedTuple):
    """Where a claimed message stands. ``taken``: out of its stream or set, because it was asked for by its id."""

    lane: Lane
    id: str
    taken: bool = False


class Entry(NamedTuple):
    """A message that was read. ``value`` is None where only its place in the group is left."""

    lane: Lane
    id: str
    value: bytes | None
    deliveries: int


class Answer(NamedTuple):
    """What a read found.

    ``more``: something else can be read at once. ``created``: the group had not been there.
    """

    entries: Sequence[Entry]
    more: bool
    created: bool


class GroupStreams:
    """The streams of one group. Thread-safe; every method raises TransportError."""

    def __init__(self, server: Server, keys: Keys, options: RedisOptions) -> None:
        self._server = server
        self.keys = keys
        self._options = options
        self._group = options.group
        partitions = (keys.pair(number) for number in range(options.number_of_partitions))
        self.lanes: Sequence[Lane] = [lane for base, retry in (keys.pair(None), *partitions) for lane in (retry, base)]

    # --- traffic ---

    def read(self, consumer: str, lanes: Sequence[Lane], limit: int) -> Answer:
        """Claim what is due in these lanes, in their order, and return it, at most ``limit``."""
        names = [self.keys.alive(consumer), self.keys.taken, *(key for lane in lanes for key in _pair(lane))]
        create = int(self._options.auto_setup)
        arguments = (self._group, consumer, limit, create, _milliseconds(LIFE), self.keys.stream)
        found, more, created = self._server.run(scripts.GET, names, arguments)
        return Answer(
            [Entry(lanes[at - 1], entry.decode(), value, deliveries) for at, entry, value, deliveries in found],
            bool(more),
            bool(created),
        )

    def ahead(self, lanes: Sequence[Lane]) -> tuple[Sequence[tuple[str, str]], int | None]:
        """Return behind which entry of each stream nothing was read, and the milliseconds until something is due."""
        names = [key for lane in lanes for key in _pair(lane)]
        due_in, positions = self._server.run(scripts.AHEAD, names, (self._group,))
        streams = [lane.stream for lane in lanes]
        places = [(stream, each.decode()) for stream, each in zip(streams, positions, strict=True)]
        return places, None if due_in < 0 else due_in

    def settle(self, consumer: str, batch: Sequence[tuple[Held, Settlement]]) -> Sequence[bool]:
        """Carry out settlements; False for each message that is not this consumer's any more."""
        names = KeyList(self.keys.wake, self.keys.taken, self.keys.parked, self.keys.stream)
        deletes = (int(self._options.delete_after_ack), int(self._options.delete_after_reject))
        arguments: list[Argument] = [self._group, consumer, *deletes]
        for held, settlement in batch:
            lane = held.lane
            arguments += (_LETTERS[type(settlement)], int(held.taken), names.at(lane.stream), held.id)
            arguments.append(int(lane.retries))
            base, retry = self.keys.pair(lane.partition)
            arguments += (names.at(base.stream), names.at(base.queue), names.at(retry.stream), names.at(retry.queue))
            if isinstance(settlement, Requeue | Park):
                delay = settlement.outgoing.delay_ms if isinstance(settlement, Requeue) else 0
                arguments += (delay, value_of(settlement.outgoing, delay))
            else:
                arguments += (0, "")
        return [bool(each) for each in self._server.run(scripts.SETTLE, names, arguments)]

    def give_back(self, consumer: str, counts: Mapping[Held, int]) -> None:
        """Let others have messages again, each with the number of deliveries that is to be remembered."""
        names = KeyList(self.keys.wake, self.keys.taken)
        arguments: list[Argument] = [self._group, consumer]
        for held, count in counts.items():
            arguments += (int(held.taken), names.at(held.lane.stream), held.id, count)
        self._server.run(scripts.GIVE_BACK, names, arguments)

    # --- upkeep ---

    def reconcile(self, consumer: str, held: Iterable[Held]) -> int:
        """Give back what the server believes this consumer to hold and it does not; return how much that was."""
        names = KeyList(self.keys.wake, *(lane.stream for lane in self.lanes))
        arguments: list[Argument] = [self._group, consumer]
        for each in held:
            if not each.taken:
                arguments += (names.at(each.lane.stream), each.id)
        return int(self._server.run(upkeep_scripts.RECONCILE, names, arguments))

    def beat(self, consumer: str, held: Sequence[Held]) -> Sequence[int]:
        """Keep the consumer and its claims alive; return the positions of the claims that are somebody else's."""
        names = KeyList(self.keys.alive(consumer), self.keys.taken)
        arguments: list[Argument] = [self._group, consumer, _milliseconds(LIFE)]
        entries = [at for at, each in enumerate(held) if not each.taken]
        for at in entries:
            arguments += (names.at(held[at].lane.stream), held[at].id)
        return [entries[int(each)] for each in self._server.run(upkeep_scripts.BEAT, names, arguments)]

    def survey(self, consumer: str, idle_ms: int) -> tuple[Collection[str], int]:
        """Return the consumers that do not live, and how many messages were freed that PHP workers had left.

        These are looked for if ``idle_ms``, since when they have been left, is not 0.
        """
        names = (self.keys.taken, *(lane.stream for lane in self.lanes))
        arguments = (self._group, consumer, self.keys.alive(""), idle_ms)
        dead, freed = self._server.run(upkeep_scripts.SURVEY, names, arguments)
        return [each.decode() for each in dead], int(freed)

    def recover(self, dead: str) -> int:
        """Free some of what a dead consumer holds, unless it lives again; return how much."""
        names = (self.keys.wake, self.keys.taken, self.keys.alive(dead), *(lane.stream for lane in self.lanes))
        return int(self._server.run(upkeep_scripts.RECOVER, names, (self._group, dead)))

    def holders(self, lanes: Iterable[Lane]) -> Collection[str]:
        """Return the consumers that hold entries of these lanes."""
        names = [lane.stream for lane in lanes]
        return [each.decode() for each in self._server.run(upkeep_scripts.HOLDERS, names, (self._group,))]

    def leave(self, consumer: str) -> None:
        """Forget a consumer, where it holds nothing."""
        names = (self.keys.alive(consumer), *(lane.stream for lane in self.lanes))
        self._server.run(upkeep_scripts.LEAVE, names, (self._group, consumer))

    def trim(self) -> None:
        """Remove old entries that every group is done with, where the streams are longer than they may be."""
        if self._options.stream_max_entries:
            for lane in self.lanes:
                self._server.run(upkeep_scripts.TRIM, (lane.stream,), (self._options.stream_max_entries,))

    # --- looking ---

    def counts(self) -> Sequence[int]:
        """Return how many are ready, delayed, in flight and parked."""
        names = (self.keys.taken, self.keys.parked, *(key for lane in self.lanes for key in _pair(lane)))
        return [int(each) for each in self._server.run(looking_scripts.COUNT, names, (self._group,))]

    def look(self, lane: Lane, after: str | None, limit: int) -> tuple[str, Sequence[tuple[str, bytes, str]]]:
        """Return the last id of a page of a stream, and {id, value, state} of those that are not done with."""
        first = "-" if after is None else f"({after}"
        seen, found = self._server.run(looking_scripts.LOOK, (lane.stream,), (self._group, first, limit))
        return seen.decode(), [(entry.decode(), value, state.decode()) for entry, value, state in found]

    def take(self, consumer: str, at: Place, own_id: str) -> tuple[Held, bytes, int] | None:
        """Claim one message; return where it stands from now on, its value and how often it was delivered."""
        source = {"entry": at.lane.stream, "delayed": at.lane.queue, "parked": self.keys.parked}[at.kind]
        names = (self.keys.alive(consumer), self.keys.taken, source)
        arguments = (self._group, consumer, _milliseconds(LIFE), at.kind, at.id, own_id, at.score)
        answer = self._server.run(looking_scripts.TAKE, names, arguments)
        if answer is None:
            return None
        value, deliveries, taken = answer
        return Held(at.lane, own_id if taken else at.id, taken=bool(taken)), value, deliveries

    def delayed(self, lane: Lane, first: str) -> Iterator[tuple[bytes, str]]:
        """Yield what is delayed from a time on, with the time at which it becomes due."""
        at = 0
        while True:
            command = ("ZRANGEBYSCORE", lane.queue, first, "+inf", "WITHSCORES", "LIMIT", at, _PAGE)
            found = self._server.execute(*command)
            pairs = found if not found or isinstance(found[0], tuple) else zip(found[::2], found[1::2], strict=True)
            for value, score in pairs:
                yield value, f"{float(score):.0f}"
            if not found:
                return
            at += _PAGE

    def parked(self, after: str | None) -> Iterator[tuple[str, bytes]]:
        """Yield what is parked, with its id there."""
        while True:
            first = "-" if after is None else f"({after}"
            found = self._server.execute("XRANGE", self.keys.parked, first, "+", "COUNT", _PAGE)
            if not found:
                return
            for entry, fields in found:
                after = entry.decode()
                yield after, _field(fields)

    def taken(self) -> Sequence[tuple[str, bytes]]:
        """Return what was taken by its id, and is held."""
        found = self._server.run(looking_scripts.TAKEN, (self.keys.taken,))
        return [(own_id.decode(errors="replace"), value) for own_id, value in found]


class KeyList(list[str]):
    """The keys of a script, each once, and their places."""

    def __init__(self, *keys: str) -> None:
        super().__init__(keys)
        self._places = {key: place for place, key in enumerate(keys, 1)}

    def at(self, key: str) -> int:
        """Return the place of a key, which is added where it is not there yet."""
        place = self._places.get(key)
        if place is None:
            self.append(key)
            place = self._places[key] = len(self)
        return place


def value_of(outgoing: Outgoing, delay_ms: int) -> bytes:
    """Return what is stored of a message."""
    return to_value(outgoing.body, outgoing.headers, unique_id=secrets.token_hex(8) if delay_ms > 0 else None)


_LETTERS: Final[Mapping[type[Settlement], str]] = {Ack: "a", Discard: "d", Requeue: "r", Park: "p"}


def _pair(lane: Lane) -> tuple[str, str]:
    return lane.stream, lane.queue


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _field(fields: Mapping[bytes, bytes]) -> bytes:
    return fields.get(FIELD.encode(), b"")
