"""The connection to a Redis: opened when needed, its scripts loaded, its errors translated in one place."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from bus.errors import AccessDeniedError, ConnectionLostError, MissingExtraError, SendRefused, TransportError
from bus.forking import forget_in_children
from bus.transports.redis.options import Place

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode, RedisCluster
    from redis.retry import Retry
    from redis.sentinel import Sentinel
except ModuleNotFoundError as error:
    if error.name != "redis":
        raise
    raise MissingExtraError(
        'Redis needs the package "redis", which is not installed; '
        'install it with: pip install "messenger-bus[redis]", or: uv add "messenger-bus[redis]"'
    ) from None

logger = logging.getLogger(__name__)

Argument: TypeAlias = str | bytes | int | float
# The library's clients for one server and for a cluster share no type, and not all of it is annotated.
Client: TypeAlias = Any

_CONNECTIONS: Final = 64  # at most, of one process to one server
_HEALTH_CHECK: Final = 15  # seconds without use after which a connection is tried before it is used
_DENIED: Final = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
_NOBODY_THERE: Final = (ConnectionRefusedError, FileNotFoundError, socket.gaierror, ssl.SSLCertVerificationError)


class NoSuchGroupError(TransportError):
    """The stream or its group does not exist."""


class OutOfMemoryError(SendRefused):
    """The server has reached its limit of memory: nothing was stored."""


class OutcomeUnknownError(ConnectionLostError):
    """The connection was lost after the command may have been sent."""


class Script:
    """A Lua script. The server is sent its text once, and its digest from then on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Server:
    """One Redis, Sentinel set-up or cluster. Thread-safe: every call has a connection of its own meanwhile.

    No call is repeated by the client library: what becomes of a command whose answer was lost is decided by those who
    know what the command does. ``close`` lets go of the connections; the next call opens them again.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self._opening = threading.Lock()
        self._client: Client | None = None
        self._loaded: set[str] = set()

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Run a script in one step and return its answer. Raises TransportError."""
        with self._translating():
            client = self._connected()
            if script.digest in self._loaded:
                try:
                    return client.evalsha(script.digest, len(keys), *keys, *arguments)
                except redis.exceptions.NoScriptError:
                    pass  # a server that was restarted, or another one: nothing was done
            answer = client.eval(script.text, len(keys), *keys, *arguments)
            self._loaded.add(script.digest)
            return answer

    def execute(self, *command: Argument) -> Any:
        """Run one command and return its answer. Raises TransportError."""
        with self._translating():
            return self._connected().execute_command(*command)

    def wait_for_entries(self, positions: Sequence[tuple[str, str]], milliseconds: int) -> bool:
        """Wait until one of these streams has an entry behind its id; False: none has. Raises TransportError."""
        with self._translating():
            return bool(self._connected().xread(dict(positions), count=1, block=milliseconds))

    def ask(self, *command: str) -> Any:
        """Run a command that asks one server of a cluster, any, about itself. Raises TransportError."""
        with self._translating():
            where = {"target_nodes": RedisCluster.RANDOM} if self.place.is_cluster else {}
            return self._connected().execute_command(*command, **where)

    def close(self) -> None:
        """Let go of every connection. Idempotent; from any thread."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                client.close()

    def forget(self) -> None:
        """Leave the connections to the parent process. Called in a forked child, where no other thread runs."""
        self._begin()

    def _connected(self) -> Client:
        with self._opening:
            if self._client is None:
                self._client = _client(self.place)
            return self._client

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise translated(self.place, error) from error

    def __str__(self) -> str:
        return str(self.place)


def _client(place: Place) -> Client:
    options = place.options
    settings: dict[str, Any] = {
        "password": place.password,
        "username": place.user,
        "socket_timeout": options.read_timeout,
        "socket_connect_timeout": options.timeout,
        "socket_keepalive": True,
        "health_check_interval": _HEALTH_CHECK,
        "protocol": 2,
    }
    if place.tls:
        settings |= {
            "ssl": True,
            "ssl_ca_certs": options.cafile,
            "ssl_certfile": options.local_cert,
            "ssl_keyfile": options.local_pk,
            "ssl_cert_reqs": "required" if options.verify_peer else "none",
            "ssl_check_hostname": options.verify_peer,
        }
    never_again = Retry(NoBackoff(), 0)
    if place.is_cluster:
        make_node: Any = ClusterNode
        nodes = [make_node(name, port) for name, port in place.hosts]
        return RedisCluster(startup_nodes=nodes, retry=never_again, **settings)
    settings |= {"db": options.dbindex, "retry": never_again, "max_connections": _CONNECTIONS}
    if options.sentinel_master is not None:
        own = {key: value for key, value in settings.items() if key not in ("db", "password", "username")}
        make_sentinel: Any = Sentinel
        sentinels = make_sentinel(list(place.hosts), sentinel_kwargs={**own, "password": options.sentinel_auth})
        return sentinels.master_for(options.sentinel_master, **settings)
    if place.socket is not None:
        for name in ("socket_keepalive", "socket_connect_timeout"):
            settings.pop(name)
        return redis.Redis(unix_socket_path=place.socket, **settings)
    (name, port), *_ = place.hosts
    return redis.Redis(host=name, port=port, **settings)


def translated(place: Place, error: redis.RedisError | OSError) -> TransportError:
    """Return our error for one of the client's."""
    text = str(error)
    if isinstance(error, _DENIED) or text.startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
        return AccessDeniedError(f"{place} denies access: {text}")
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM command not allowed" in text:
        return OutOfMemoryError(f'{place} has reached its limit of memory ("maxmemory"): {text}')
    if "NOGROUP" in text:
        return NoSuchGroupError(f"{place}: {text}")
    if isinstance(error, redis.exceptions.BusyLoadingError | redis.ReadOnlyError):
        return ConnectionLostError(f"{place} does not take commands now: {text}")
    if isinstance(error, redis.ResponseError):
        if text.startswith(("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "NOREPLICAS")):
            return ConnectionLostError(f"{place} does not take commands now: {text}")
        return TransportError(f"{place} answered with an error: {text}")
    if _was_never_sent(error):
        return ConnectionLostError(f"{place} cannot be reached: {text}")
    return OutcomeUnknownError(f"{place}: the connection was lost: {text}")


def _was_never_sent(error: BaseException) -> bool:
    """Tell whether there was no connection to send anything over."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _NOBODY_THERE) or type(cause).__name__ in ("MasterNotFoundError", "MaxConnectionsError"):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
