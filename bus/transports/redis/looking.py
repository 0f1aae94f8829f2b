"""Looks at messages, wherever they stand, without claiming any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from bus.transports.base import Peeked
from bus.transports.redis.entries import from_value
from bus.transports.redis.keys import Lane, Place
from bus.transports.redis.streams import GroupStreams

_PAGE: Final = 200  # entries
_DIGITS: Final = 16  # of a digest


class _Section(NamedTuple):
    """Messages that stand in one key; a lane where they stand in its stream or sorted set."""

    kind: str
    lane: Lane


class Looking:
    """The messages of a group: its streams, one after the other, then what is delayed, parked, and taken by its id."""

    def __init__(self, streams: GroupStreams) -> None:
        self._streams = streams
        lanes = list(reversed(streams.lanes))
        main = streams.keys.main
        self._sections = [
            *(_Section("entry", lane) for lane in lanes),
            *(_Section("delayed", lane) for lane in lanes),
            _Section("parked", main),
            _Section("taken", main),
        ]

    def peek(self, limit: int, after: str | None) -> Sequence[Peeked]:
        """Return up to ``limit`` messages from behind an id; nothing where the id is none of ours."""
        sections = self._sections
        place = None if after is None else self._streams.keys.place(after)
        if after is not None:
            found_in = None if place is None else _Section(place.kind, place.lane)
            if found_in not in sections:
                return ()
            sections = sections[sections.index(found_in) :]
        found: list[Peeked] = []
        for section in sections:
            for each in self._messages(section, place):
                if len(found) >= limit:
                    return found
                found.append(each)
            place = None
        return found

    def _messages(self, section: _Section, after: Place | None) -> Iterator[Peeked]:
        match section.kind:
            case "entry":
                return self._entries(section.lane, after)
            case "delayed":
                return self._delayed(section.lane, after)
            case "parked":
                return self._parked(after)
            case _:
                return self._taken(after)

    def _entries(self, lane: Lane, after: Place | None) -> Iterator[Peeked]:
        seen = None if after is None else after.id
        while True:
            seen, found = self._streams.look(lane, seen, _PAGE)
            if not seen:
                return
            for entry, value, state in found:
                yield Peeked(lane.prefix + entry, *from_value(value), state)

    def _delayed(self, lane: Lane, after: Place | None) -> Iterator[Peeked]:
        first, passed = ("-inf", True) if after is None else (after.score, False)
        for value, score in self._streams.delayed(lane, first):
            digest = hashlib.sha1(value, usedforsecurity=False).hexdigest()[:_DIGITS]
            if passed:
                yield Peeked(f"delayed-{lane.prefix}{score}-{digest}", *from_value(value), "delayed")
            elif after is not None:
                # Those of the same time stand in no order but that of their values.
                passed = digest == after.id or score != after.score

    def _parked(self, after: Place | None) -> Iterator[Peeked]:
        for entry, value in self._streams.parked(None if after is None else after.id):
            yield Peeked(f"parked-{entry}", *from_value(value), "parked")

    def _taken(self, after: Place | None) -> Iterator[Peeked]:
        held = sorted((f"taken-{own_id}", value) for own_id, value in self._streams.taken())
        for own_id, value in held:
            if after is None or own_id > after.text:
                yield Peeked(own_id, *from_value(value), "in_flight")
