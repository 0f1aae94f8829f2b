"""The TCP proxy of the tests forwards, and breaks exactly what it is told to break."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults.waiting import PATIENCE, wait_until
from tests.servers.proxy import Direction, Proxy


class Echo(socketserver.BaseRequestHandler):
    """Send everything back, and remember it."""

    heard: bytearray

    def handle(self) -> None:
        try:
            while piece := self.request.recv(65_536):
                self.heard.extend(piece)
                self.request.sendall(piece)
        except OSError:
            pass


class EchoServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def heard() -> bytearray:
    """Return what the server has received."""
    return bytearray()


@pytest.fixture
def proxy(heard: bytearray) -> Iterator[Proxy]:
    with EchoServer(("127.0.0.1", 0), type("Handler", (Echo,), {"heard": heard})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with Proxy(server.server_address) as proxy:
                yield proxy
        finally:
            server.shutdown()
            thread.join()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)


def read(connection: socket.socket, count: int) -> bytes:
    """Read so many bytes, or fewer if the connection ends."""
    got = bytearray()
    while len(got) < count and (piece := connection.recv(count - len(got))):
        got.extend(piece)
    return bytes(got)


def test_bytes_pass_unchanged_in_both_directions(proxy: Proxy) -> None:
    data = bytes(range(256)) * 4_000
    with closing(connect(proxy)) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert read(connection, len(data)) == data
        sender.join()


def test_the_end_of_a_connection_passes(proxy: Proxy) -> None:
    with closing(connect(proxy)) as connection:
        connection.sendall(b"hello")
        read(connection, 5)
        assert proxy.connections == 1
    wait_until(lambda: proxy.connections == 0, "the proxy has closed its side")


def test_a_reset_reaches_all_connections_and_none_that_comes_later(proxy: Proxy) -> None:
    with closing(connect(proxy)) as first, closing(connect(proxy)) as second:
        for connection in (first, second):
            connection.sendall(b"hello")
            read(connection, 5)
        assert proxy.reset() == 2
        for connection in (first, second):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    with closing(connect(proxy)) as third:
        third.sendall(b"hello")
        assert read(third, 5) == b"hello"


@pytest.mark.parametrize("count", [1, 7, 999, 100_000])
def test_a_connection_is_cut_after_a_number_of_bytes_to_the_client(proxy: Proxy, count: int) -> None:
    with closing(connect(proxy)) as connection:
        cut = proxy.cut_after(count, Direction.TO_CLIENT)
        connection.sendall(b"x" * (count + 1))
        assert len(read(connection, count + 1)) == count
        assert cut.wait(PATIENCE)


def test_a_connection_is_cut_after_a_number_of_bytes_to_the_server(proxy: Proxy, heard: bytearray) -> None:
    with closing(connect(proxy)) as connection:
        proxy.cut_after(7, Direction.TO_SERVER)
        connection.sendall(b"0123456789")
        read(connection, 10)
    wait_until(lambda: heard == b"0123456", "the server has heard what passed")


def test_a_cut_counts_the_bytes_of_all_connections_and_happens_once(proxy: Proxy) -> None:
    cut = proxy.cut_after(6, Direction.TO_CLIENT)
    with closing(connect(proxy)) as first, closing(connect(proxy)) as second:
        first.sendall(b"1234")
        assert read(first, 4) == b"1234"
        second.sendall(b"5678")
        assert read(second, 4) == b"56"
        assert cut.is_set()
        first.sendall(b"9")
        assert read(first, 1) == b"9"


def test_nothing_passes_a_stall_and_all_of_it_passes_afterwards(proxy: Proxy, heard: bytearray) -> None:
    with closing(connect(proxy)) as connection:
        connection.sendall(b"before")
        read(connection, 6)
        with proxy.stalled():
            connection.sendall(b"meanwhile")
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            assert heard == b"before"
        connection.settimeout(PATIENCE)
        assert read(connection, 9) == b"meanwhile"


def test_a_swallowed_reply_was_heard_by_the_server_and_its_connection_is_reset(proxy: Proxy, heard: bytearray) -> None:
    with closing(connect(proxy)) as connection, closing(connect(proxy)) as silent:
        silent.sendall(b"1")
        read(silent, 1)
        with proxy.swallowing(Direction.TO_CLIENT):
            connection.sendall(b"hello")
            wait_until(lambda: heard == b"1hello", "the server has heard it")
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        connection.settimeout(PATIENCE)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        silent.sendall(b"2")
        assert read(silent, 1) == b"2", "a connection that lacks nothing goes on"


def test_a_delay_passes_everything_later(proxy: Proxy) -> None:
    with closing(connect(proxy)) as connection, proxy.delayed(0.1):
        started = time.monotonic()
        connection.sendall(b"hello")
        assert read(connection, 5) == b"hello"
        assert time.monotonic() - started >= 0.2, "once in each direction"


def test_a_refusing_proxy_accepts_again_afterwards(proxy: Proxy) -> None:
    with closing(connect(proxy)) as connection:
        connection.sendall(b"hello")
        read(connection, 5)
        with proxy.refusing():
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
            with pytest.raises(ConnectionRefusedError):
                connect(proxy)
    with closing(connect(proxy)) as connection:
        connection.sendall(b"hello")
        assert read(connection, 5) == b"hello"


def test_a_client_is_turned_away_when_the_server_is_not_there() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        address = nobody.getsockname()
    with Proxy(address) as proxy, closing(connect(proxy)) as connection:
        assert connection.recv(1) == b""
