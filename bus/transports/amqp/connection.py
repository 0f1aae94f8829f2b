"""One connection to RabbitMQ, kept by a thread of its own. Nothing else imports the client library."""

from __future__ import annotations

import logging
import os
import random
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
from pika.adapters.select_connection import IOLoop, SelectConnection  # type: ignore[import-untyped]

from bus.errors import AccessDeniedError, ConfigurationError, ConnectionLostError, TransportError, quoted
from bus.transports.amqp.channel import Channel
from bus.transports.amqp.options import PORT, TLS_PORT, TLS_SCHEME, AmqpOptions, vhost_of
from bus.transports.dsn import Dsn, Host

logger = logging.getLogger(__name__)
# What it has to say of a connection, our errors and log lines say, with the name of the transport.
logging.getLogger("pika").setLevel(logging.CRITICAL)

Properties: TypeAlias = pika.BasicProperties
new_properties: Final[Callable[..., Properties]] = pika.BasicProperties

_FIRST_PAUSE: Final = 0.1  # seconds between two rounds over all servers, doubling
_LONGEST_PAUSE: Final = 2.0
_SLOW_ANSWER: Final = 20_000  # milliseconds after which the kernel gives up data that nobody acknowledges
_AT_LEAST_ONCE_SINCE: Final = (3, 10)
_DENIED: Final = (403, 530)  # access refused, not allowed (no such virtual host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What it takes to connect: hosts that are tried in turn, and who we are."""

    hosts: tuple[Host, ...]
    vhost: str
    user: str
    password: str = field(repr=False)
    options: AmqpOptions
    tls: ssl.SSLContext | None
    name: str

    @classmethod
    def of(cls, name: str, dsn: Dsn, options: AmqpOptions) -> Server:
        """Read where the transport ``name`` connects to. Raises ConfigurationError where a certificate is unusable."""
        default_port = options.port or (TLS_PORT if dsn.scheme == TLS_SCHEME else PORT)
        hosts = dsn.hosts or (Host(options.host or "localhost"),)
        return cls(
            hosts=tuple(Host(each.name, each.port or default_port) for each in hosts),
            vhost=vhost_of(dsn, options),
            user=dsn.user or options.user or options.login or "guest",
            password=dsn.password or options.password or "guest",
            options=options,
            tls=_tls(name, options) if dsn.scheme == TLS_SCHEME else None,
            name=options.connection_name or name,
        )

    def parameters(self, host: Host, purpose: str) -> pika.ConnectionParameters:
        """Return what the client library wants to know of one host."""
        options = self.options
        external = options.sasl_method.lower() == "external"
        return pika.ConnectionParameters(
            host=host.name,
            port=host.port,
            virtual_host=self.vhost,
            credentials=pika.credentials.ExternalCredentials()
            if external
            else pika.PlainCredentials(self.user, self.password),
            heartbeat=options.heartbeat,
            frame_max=options.frame_max,
            channel_max=options.channel_max,
            socket_timeout=options.connect_timeout,
            stack_timeout=options.connect_timeout,
            ssl_options=pika.SSLOptions(self.tls, host.name) if self.tls is not None else None,
            tcp_options={"TCP_USER_TIMEOUT": _SLOW_ANSWER},
            client_properties={"connection_name": f"{self.name} ({purpose}, pid {os.getpid()})"},
        )

    def __str__(self) -> str:
        return f"RabbitMQ at {quoted(f'{each.name}:{each.port}' for each in self.hosts)}"


class Owner(Protocol):
    """What a connection belongs to. Called on the connection's thread."""

    def connection_opened(self) -> None:
        """Begin to use it."""

    def connection_lost(self, error: TransportError) -> None:
        """Take note that it is gone, or that no server could be reached."""

    def wants_connection(self) -> bool:
        """Tell whether to connect again. It may hold no lock that another thread waits for."""


class BrokerConnection:
    """Connects, serves and, as long as its owner wants it, connects again. ``purpose`` is what RabbitMQ shows for it.

    ``connect``, ``call`` and ``close`` are for any thread, everything else for its own.

    Attributes:
        blocked: why the server takes no more messages; None: it does.
    """

    def __init__(self, server: Server, purpose: str, owner: Owner) -> None:
        self.server = server
        self._purpose = purpose
        self._owner = owner
        self._inherited: list[object] = []
        self._start_anew()

    def _start_anew(self) -> None:
        self.blocked: str | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._hurry = threading.Event()
        self._loop: IOLoop | None = None
        self._raw: SelectConnection | None = None
        self._error: TransportError = ConnectionLostError("")
        self._calls: deque[Callable[[], None]] = deque()
        self._rung = False

    # --- from any thread ---

    def connect(self) -> None:
        """Have a thread connect, unless one does or has. Returns at once."""
        with self._lock:
            self._closing = False
            self._hurry.set()
            if self._thread is not None:
                return
            self._thread = threading.Thread(
                target=self._run, name=f"bus-amqp-{self.server.name}-{self._purpose}", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError as error:  # the interpreter ends
                self._thread = None
                raise ConnectionLostError(f"{self.server} cannot be reached: {error}") from error

    def call(self, work: Callable[[], None]) -> None:
        """Run ``work`` on the connection's thread; nothing where there is none. Many calls make one wake-up."""
        self._calls.append(work)
        if not self._rung:
            self._rung = True
            loop = self._loop
            if loop is not None:
                loop.add_callback_threadsafe(self._run_calls)

    def close(self, timeout: float) -> None:
        """Close in good order, what was called before included, or within ``timeout`` seconds in any. Idempotent."""
        with self._lock:
            self._closing = True
            self._hurry.set()
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        self.call(self._close_raw)
        thread.join(timeout)
        if thread.is_alive():
            self.call(self.abort)
            thread.join(timeout)

    @property
    def running(self) -> bool:
        """Whether a thread serves it, or connects."""
        return self._thread is not None

    def forget(self) -> None:
        """Let go of the parent's connection, in a forked child."""
        if self._raw is not None:
            # Our copy of its socket would keep it open after the parent's end.
            self._inherited.append(self._raw)
            with _quiet():
                self._raw._transport._sock.close()
        self._inherited.append(self._loop)
        self._start_anew()

    # --- on its thread ---

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._raw is not None and self._raw.is_open

    @property
    def keeps_dead_letters(self) -> bool:
        """Whether the server can keep a message that a queue gives away until the next queue has it."""
        version = str((self._raw.server_properties or {}).get("version", "")) if self._raw is not None else ""
        numbers = tuple(int(each) for each in version.split(".")[:2] if each.isdecimal())
        return numbers >= _AT_LEAST_ONCE_SINCE

    def open_channel(
        self, on_open: Callable[[Channel], None], on_closed: Callable[[Channel, int, str], None]
    ) -> Channel:
        """Open a channel; ``on_closed`` is told the server's code and text, 0 where it was not the server.

        Raises ConnectionLostError where there is no connection.
        """
        if self._raw is None or not self._raw.is_open:
            raise ConnectionLostError(f"{self.server} is not connected")
        channel = Channel()

        def closed(_: object, reason: Any) -> None:
            by_server = isinstance(reason, pika.exceptions.ChannelClosedByBroker)
            on_closed(channel, reason.reply_code if by_server else 0, reason.reply_text if by_server else "")

        def opened(raw: Any) -> None:
            on_open(channel)

        channel.raw = self._raw.channel(on_open_callback=opened)
        channel.raw.add_on_close_callback(closed)
        return channel

    def soon(self, work: Callable[[], None]) -> None:
        """Run ``work`` after what the server has sent so far."""
        if self._loop is not None:
            self._loop.add_callback_threadsafe(work)

    def call_later(self, seconds: float, work: Callable[[], None]) -> None:
        """Run ``work`` after a while, if the connection lasts."""
        if self._loop is not None:
            self._loop.call_later(seconds, work)

    def abort(self) -> None:
        """Cut the connection."""
        raw, loop = self._raw, self._loop
        if raw is not None:
            with _quiet():
                raw._transport.abort()
        if loop is not None:
            loop.stop()

    # --- the thread ---

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._hurry.clear()
            opened = self._serve()
            self._owner.connection_lost(self._error)
            with self._lock:
                if self._closing or not self._owner.wants_connection():
                    self._thread = None
                    return
            pause = _FIRST_PAUSE if opened else min(pause * 2, _LONGEST_PAUSE)
            self._hurry.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads those that lost the same server

    def _serve(self) -> bool:
        """Connect to the first host that answers and serve until the connection is lost; tell whether there was one."""
        loop = IOLoop()
        attempt = _Attempt(self, loop)
        self._error = ConnectionLostError(f"{self.server} was closed")
        self._loop = loop
        self._rung = True
        loop.add_callback_threadsafe(self._run_calls)
        try:
            attempt.begin()
            loop.start()
        except Exception as error:
            logger.exception("The connection to %s failed in an unexpected way", self.server)
            self._error = ConnectionLostError(f"{self.server}: {error}")
            self.abort()
        finally:
            self._loop = self._raw = self.blocked = None
            loop.close()
            self._rung = False
            self._calls.clear()
        return attempt.succeeded

    def _run_calls(self) -> None:
        self._rung = False  # before anything is looked at: who still finds it set did his part before
        calls = self._calls
        while calls:
            calls.popleft()()

    def _close_raw(self) -> None:
        raw = self._raw
        if raw is not None and raw.is_open:
            raw.close()
        else:
            self.abort()

    def _opened(self, raw: SelectConnection) -> None:
        self._raw = raw
        raw.add_on_connection_blocked_callback(self._was_blocked)
        raw.add_on_connection_unblocked_callback(self._was_unblocked)
        if self._closing:
            raw.close()
        else:
            self._owner.connection_opened()

    def _was_blocked(self, _: object, frame: Any) -> None:
        self.blocked = str(frame.method.reason)
        logger.warning("%s takes no messages for now: %s", self.server, self.blocked)

    def _was_unblocked(self, _: object, frame: Any) -> None:
        self.blocked = None
        logger.info("%s takes messages again", self.server)
        self._owner.connection_opened()


class _Attempt:
    """One round over all hosts, until one of them answers."""

    def __init__(self, connection: BrokerConnection, loop: IOLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._hosts: Iterator[Host] = iter(connection.server.hosts)
        self._denied: TransportError | None = None
        self.succeeded = False

    def begin(self) -> None:
        self._try_next()

    def _try_next(self) -> None:
        connection = self._connection
        host = None if connection._closing else next(self._hosts, None)
        if host is None:
            connection._error = self._denied or connection._error
            self._loop.stop()
            return
        SelectConnection(
            connection.server.parameters(host, connection._purpose),
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_open_error,
            on_close_callback=self._on_close,
            custom_ioloop=self._loop,
        )

    def _on_open(self, raw: SelectConnection) -> None:
        self.succeeded = True
        self._connection._opened(raw)

    def _on_open_error(self, _: SelectConnection, error: BaseException) -> None:
        translated = _translated(self._connection.server, error)
        if isinstance(translated, AccessDeniedError):
            self._denied = translated
        self._connection._error = translated
        self._try_next()

    def _on_close(self, _: SelectConnection, error: BaseException) -> None:
        self._connection._error = _translated(self._connection.server, error)
        self._connection._raw = None
        self._loop.stop()


def _translated(server: Server, error: BaseException) -> TransportError:
    """Return our error for one of the client library's."""
    denied = (pika.exceptions.ProbableAuthenticationError, pika.exceptions.ProbableAccessDeniedError)
    text = str(error) or repr(error)
    if isinstance(error, denied) or getattr(error, "reply_code", 0) in _DENIED:
        return AccessDeniedError(
            f'{server} refuses user "{server.user}" in the virtual host "{server.vhost}": {text}; '
            "check the user, the password, the virtual host and the user's rights in it"
        )
    return ConnectionLostError(f"{server} cannot be reached: {text}")


def _tls(name: str, options: AmqpOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.cacert)
        if not options.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.cert is not None and options.key is not None:
            context.load_cert_chain(Path(options.cert), Path(options.key))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f'Transport "{name}": the certificates in "cacert", "cert" and "key" cannot be used: {error}'
        ) from None
    return context


@contextmanager
def _quiet() -> Iterator[None]:
    """Cut what may be cut already, or not be there yet."""
    try:
        yield
    except (AttributeError, OSError, AssertionError):
        pass
