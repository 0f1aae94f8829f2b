"""A TCP proxy that does to connections what networks do: reset, stall, delay, cut, swallow, refuse."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Self, TypeVar

from tests.servers import ports

_T = TypeVar("_T")
_PIECE = 64 * 1024
_PATIENCE = 30.0  # seconds for the proxy itself, whatever it does to others
_NO_LINGER = struct.pack("ii", 1, 0)  # closing sends RST


class Direction(enum.Enum):
    """Which way bytes travel."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class _Connection:
    """A client's connection and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = {Direction.TO_CLIENT: client, Direction.TO_SERVER: server}
        self.has_gap = False

    def writer(self, direction: Direction) -> asyncio.StreamWriter:
        return self._writers[direction]

    def reset(self) -> None:
        """Send RST to both ends."""
        for writer in self._writers.values():
            with contextlib.suppress(OSError):  # it has ended by itself meanwhile
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()

    def close(self) -> None:
        """Deliver what was written, then end both connections."""
        for writer in self._writers.values():
            writer.close()


class Proxy:
    """Forwards ``port`` of this machine to a server, on a thread of its own.

    Its methods may be called from any thread. A fault acts on the connections that exist and on those that come.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._resources = ExitStack()
        self.port = self._resources.enter_context(ports.reserved(ports.PROXIES, 1))
        self._connections: set[_Connection] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._swallowed: frozenset[Direction] = frozenset()
        self._cuts: dict[Direction, tuple[int, threading.Event]] = {}
        self._delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._listener: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self._do(self._listen())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset all connections and end the thread."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()
        self._resources.close()

    # --- faults ---

    def reset(self) -> int:
        """Reset all connections; return how many there were. New ones are forwarded."""
        return self._do(self._reset(lambda connection: True))

    def cut_after(self, count: int, direction: Direction) -> threading.Event:
        """Close the connection that carries the ``count``-th byte from now in a direction, right after that byte.

        The event that is returned is set when that has happened.
        """
        done = threading.Event()
        self._do(self._set_cut(count, direction, done))
        return done

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Forward nothing meanwhile, in either direction; connections stay open. Afterwards all goes on."""
        self._do(self._set_passing(passing=False))
        try:
            yield
        finally:
            self._do(self._set_passing(passing=True))

    @contextmanager
    def swallowing(self, direction: Direction) -> Iterator[None]:
        """Take bytes of one direction and forward none. Afterwards the connections that lack some are reset."""
        self._do(self._set_swallowed(frozenset({direction})))
        try:
            yield
        finally:
            self._do(self._set_swallowed(frozenset()))
            self._do(self._reset(lambda connection: connection.has_gap))

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Forward each piece so much later."""
        self._do(self._set_delay(seconds))
        try:
            yield
        finally:
            self._do(self._set_delay(0.0))

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset all connections and refuse new ones meanwhile."""
        self._do(self._unlisten())
        self.reset()
        try:
            yield
        finally:
            self._do(self._listen())

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    # --- on the thread ---

    def _do(self, work: Coroutine[object, object, _T]) -> _T:
        future: Future[_T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(_PATIENCE)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _unlisten(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self._listener = None

    async def _set_passing(self, *, passing: bool) -> None:
        if passing:
            self._passing.set()
        else:
            self._passing.clear()

    async def _set_swallowed(self, directions: frozenset[Direction]) -> None:
        self._swallowed = directions

    async def _set_cut(self, count: int, direction: Direction, done: threading.Event) -> None:
        self._cuts[direction] = (count, done)

    async def _set_delay(self, seconds: float) -> None:
        self._delay = seconds

    async def _reset(self, which: Callable[[_Connection], bool]) -> int:
        chosen = [connection for connection in self._connections if which(connection)]
        for connection in chosen:
            connection.reset()
        return len(chosen)

    async def _end(self) -> None:
        if self._listener is not None:
            await self._unlisten()
        await self._reset(lambda connection: True)
        pumps = list(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        try:
            from_server, to_server = await asyncio.open_connection(*self._server)
        except OSError:
            to_client.transport.abort()
            return
        connection = _Connection(to_client, to_server)
        self._connections.add(connection)
        pumps = [
            asyncio.ensure_future(self._pump(connection, from_client, Direction.TO_SERVER)),
            asyncio.ensure_future(self._pump(connection, from_server, Direction.TO_CLIENT)),
        ]
        self._pumps.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._pumps.difference_update(pumps)
        self._connections.discard(connection)
        connection.close()

    async def _pump(self, connection: _Connection, reader: asyncio.StreamReader, direction: Direction) -> None:
        writer = connection.writer(direction)
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                await asyncio.sleep(self._delay)
                await self._passing.wait()
                if direction in self._swallowed:
                    connection.has_gap = True
                    continue
                piece, cut = self._until_the_cut(piece, direction)
                writer.write(piece)
                if cut is not None:
                    cut.set()
                    return
                await writer.drain()

    def _until_the_cut(self, piece: bytes, direction: Direction) -> tuple[bytes, threading.Event | None]:
        """Return what may still pass of a piece, and the event of the cut if it falls into it."""
        if direction not in self._cuts:
            return piece, None
        left, cut = self._cuts.pop(direction)
        if len(piece) < left:
            self._cuts[direction] = (left - len(piece), cut)
            return piece, None
        return piece[:left], cut
