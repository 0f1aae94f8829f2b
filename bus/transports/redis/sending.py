"""Sends, each message once: what may have been stored already is not stored again."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from bus.errors import ConnectionLostError, SendRefused, SendUnknown, TransportError
from bus.transports.base import Outgoing, Sent
from bus.transports.partitions import partition_of_key
from bus.transports.redis import scripts
from bus.transports.redis.connection import Argument, OutcomeUnknownError, OutOfMemoryError, Server
from bus.transports.redis.keys import Keys, stream_and_group
from bus.transports.redis.options import RedisOptions
from bus.transports.redis.streams import GroupStreams, KeyList, value_of

_AT_ONCE: Final = 200  # messages in one step; the server does nothing else meanwhile
_REMEMBERED: Final = 20.0  # seconds after which a message that was perhaps stored may be stored again
_MOST_REMEMBERED: Final = 100_000  # messages


class _Doubt(NamedTuple):
    """The tokens of sends of one message whose outcome is unknown, and until when the server remembers them."""

    tokens: tuple[str, ...]
    until: float


class Sender:
    """Sends messages to a stream, and to those that they once came from. Thread-safe.

    Every step leaves a token on the server for 20 s. A message whose outcome was unknown is sent again with the tokens
    of the earlier steps: where one of them was made, nothing is stored; where one was not, it never will be, however
    late the server comes to it.
    """

    def __init__(self, server: Server, streams: GroupStreams, options: RedisOptions) -> None:
        self._server = server
        self._streams = streams
        self._options = options
        self.forget()

    def forget(self) -> None:
        """Begin anew in a forked child."""
        self._guard = threading.Lock()
        self._doubts: OrderedDict[str, _Doubt] = OrderedDict()

    def send(self, batch: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        """Store messages; raise where nothing of the batch was tried."""
        results: list[Sent | TransportError] = []
        for origin, group in itertools.groupby(batch, key=lambda outgoing: outgoing.origin):
            keys = self._keys_of(origin)
            for chunk in _chunks(list(group)):
                try:
                    results += self._send(keys, chunk)
                except TransportError as error:
                    if not results:
                        raise
                    results += [_each(SendRefused, error) for _ in chunk]
        if self._options.stream_max_entries:
            self._trim()
        return results

    def _keys_of(self, origin: str | None) -> Keys:
        if origin is None or origin == self._streams.keys.origin:
            return self._streams.keys
        return Keys(*stream_and_group(origin), cluster=self._server.place.is_cluster)

    def _send(self, keys: Keys, chunk: Sequence[Outgoing]) -> Sequence[Sent | TransportError]:
        token = keys.sent(secrets.token_hex(16))
        names = KeyList(token, keys.wake, keys.stream)
        arguments: list[Argument] = [int(_REMEMBERED * 1000), 0]
        for outgoing in chunk:
            arguments += self._arguments(keys, names, outgoing)
        try:
            ids = self._server.run(scripts.SEND, names, arguments)
        except OutOfMemoryError as error:
            return [_each(SendRefused, error) for _ in chunk]
        except OutcomeUnknownError as error:
            self._doubt(chunk, token)
            return [_each(SendUnknown, error) for _ in chunk]
        except ConnectionLostError:
            raise
        except TransportError as error:
            if type(error) is not TransportError:
                raise
            # An error in the middle of a step leaves what came before it.
            kind = SendRefused if len(chunk) == 1 else SendUnknown
            return [_each(kind, error) for _ in chunk]
        self._settle_doubts(chunk)
        return [Sent(each.decode() or None) for each in ids]

    def _arguments(self, keys: Keys, names: KeyList, outgoing: Outgoing) -> Iterator[Argument]:
        partition = None
        if outgoing.partition_key is not None and self._options.number_of_partitions:
            partition = partition_of_key(outgoing.partition_key, self._options.number_of_partitions)
        base, retry = keys.pair(partition)
        yield names.at(base.stream)
        yield names.at(base.queue)
        yield names.at(retry.stream) if outgoing.origin is not None else 0
        yield names.at(retry.queue) if outgoing.origin is not None else 0
        yield min(outgoing.delay_ms, 2**53)
        yield value_of(outgoing, outgoing.delay_ms)
        doubt = self._doubts.get(outgoing.message_id) if self._doubts else None
        tokens = doubt.tokens if doubt is not None and doubt.until > time.monotonic() else ()
        yield len(tokens)
        for token in tokens:
            yield names.at(token)

    def _doubt(self, chunk: Sequence[Outgoing], token: str) -> None:
        until = time.monotonic() + _REMEMBERED
        with self._guard:
            for outgoing in chunk:
                before = self._doubts.pop(outgoing.message_id, None)
                tokens = (*before.tokens, token) if before is not None else (token,)
                self._doubts[outgoing.message_id] = _Doubt(tokens, until)
            while len(self._doubts) > _MOST_REMEMBERED:
                self._doubts.popitem(last=False)

    def _settle_doubts(self, chunk: Sequence[Outgoing]) -> None:
        if self._doubts:
            with self._guard:
                for outgoing in chunk:
                    self._doubts.pop(outgoing.message_id, None)

    def _trim(self) -> None:
        try:
            self._streams.trim()
        except TransportError:
            pass  # the next send does it; this one is stored


def _chunks(batch: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    for start in range(0, len(batch), _AT_ONCE):
        yield batch[start : start + _AT_ONCE]


def _each(kind: type[TransportError], error: TransportError) -> TransportError:
    """Return an error of its own for each message, because each may be raised somewhere else."""
    outcome = kind(str(error))
    outcome.__cause__ = error
    return outcome
