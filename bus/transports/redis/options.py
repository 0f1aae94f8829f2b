"""The options of a Redis transport, and which server its DSN means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final
from urllib.parse import quote, urlencode

from bus.errors import ConfigurationError
from bus.transports.dsn import Dsn, Host, options_from

DEFAULT_GROUP: Final = "symfony"
_DEFAULT_PORT = 6379
_DEFAULT_SENTINEL_PORT = 26379
_PARTITIONS_WHEN_ORDERED = 10
_MOST_PARTITIONS = 1000
_DATABASES = 16_384
_PLAIN, _PHP = 0, 1  # of php-redis's serializers


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a Redis server is reached; for transports and stores alike, under Symfony's names.

    Attributes:
        auth: the password, where the DSN has none.
        dbindex: the number of the database.
        tls: speak TLS, as ``rediss://`` does.
        cafile: a file with the certificates of the authorities that may vouch for the server.
        local_cert: a file with this client's certificate.
        local_pk: a file with the key of that certificate.
        verify_peer: check the server's certificate.
        sentinel_master: the name of the master that the Sentinels in the DSN are asked for.
        sentinel_auth: the password of the Sentinels, where they have one of their own.
        cluster: the server is a cluster; several hosts without ``sentinel_master`` are one as well.
        timeout: seconds that connecting may take.
        read_timeout: seconds that an answer may take.
    """

    auth: str | None = None
    dbindex: int = 0
    tls: bool = False
    cafile: str | None = None
    local_cert: str | None = None
    local_pk: str | None = None
    verify_peer: bool = True
    sentinel_master: str | None = None
    sentinel_auth: str | None = None
    cluster: bool = False
    timeout: float = 5.0
    read_timeout: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.dbindex < _DATABASES:
            raise ValueError(f'option "dbindex" must be 0 to {_DATABASES - 1}')
        for name, seconds in (("timeout", self.timeout), ("read_timeout", self.read_timeout)):
            if not 0 < seconds <= 60:
                raise ValueError(f'option "{name}" must be more than 0 and at most 60 seconds')
        if self.cluster and self.sentinel_master is not None:
            raise ValueError('options "cluster" and "sentinel_master" exclude each other')


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions(ServerOptions):
    """Options of a Redis transport, under Symfony's names.

    Attributes:
        stream: the stream; also the first part of the DSN's path.
        group: the consumer group; also the second part of the DSN's path. Each group gets every message.
        consumer: what the names of this process's consumers begin with; also the third part of the DSN's path. Every
            process adds something of its own, so that any number may have the same.
        auto_setup: create stream and group when they are first used.
        delete_after_ack: delete a message from the stream when it is done, where the stream has one group.
        delete_after_reject: delete a message from the stream when it is given up, where the stream has one group.
        stream_max_entries: keep so many entries that every group is done with, at most; 0 is any number. Entries that a
            group has still to read or to acknowledge always stay.
        redeliver_timeout: seconds after which a message that a PHP worker took and did not finish is delivered again.
            Messages that workers of this bus hold come back within 20 s of the worker's end.
        claim_interval: milliseconds between two looks for messages that PHP workers did not finish.
        serializer: how PHP workers of the stream write, 0 (plain) or 1 (Symfony's default). Both are read; plain is
            written, which either of them reads.
        partitions: over so many streams messages with a partition key are spread, each read by one worker; 0 is none.
            The same for all that use a stream. 10 with ``ordered``, otherwise 0.
        ordered: a failing message of a key is tried again before those that came after it.
        ordered_window: so many messages may wait behind failing ones before their partition pauses.
    """

    stream: str = "messages"
    group: str = DEFAULT_GROUP
    consumer: str = "consumer"
    auto_setup: bool = True
    delete_after_ack: bool = True
    delete_after_reject: bool = True
    stream_max_entries: int = 0
    redeliver_timeout: int = 3600
    claim_interval: int = 60_000
    serializer: int = _PHP
    partitions: int | None = None
    ordered: bool = False
    ordered_window: int = 1000

    def __post_init__(self) -> None:
        ServerOptions.__post_init__(self)
        for name, text in (("stream", self.stream), ("group", self.group), ("consumer", self.consumer)):
            if not text:
                raise ValueError(f'option "{name}" must not be empty')
        if self.stream_max_entries < 0:
            raise ValueError('option "stream_max_entries" must be 0 or more entries')
        if self.redeliver_timeout < 1:
            raise ValueError('option "redeliver_timeout" must be at least 1 second')
        if self.claim_interval < 1:
            raise ValueError('option "claim_interval" must be at least 1 millisecond')
        if self.serializer not in (_PLAIN, _PHP):
            raise ValueError('option "serializer" must be 0 (plain) or 1 (PHP); other forms cannot be read here')
        if self.partitions is not None and not 0 <= self.partitions <= _MOST_PARTITIONS:
            raise ValueError(f'option "partitions" must be 0 to {_MOST_PARTITIONS}')
        if self.ordered and self.partitions == 0:
            raise ValueError('option "ordered" needs partitions, and option "partitions" is 0')
        if self.ordered_window < 1:
            raise ValueError('option "ordered_window" must be at least 1 message')

    @property
    def number_of_partitions(self) -> int:
        """Over how many partitions keyed messages are spread; 0: none."""
        if self.partitions is not None:
            return self.partitions
        return _PARTITIONS_WHEN_ORDERED if self.ordered else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a Redis is and how it is spoken to. Its text names no password."""

    hosts: tuple[tuple[str, int], ...]
    socket: str | None
    user: str | None
    password: str | None = field(repr=False)
    tls: bool
    options: ServerOptions = field(repr=False)

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over several servers."""
        return self.options.cluster or (len(self.hosts) > 1 and self.options.sentinel_master is None)

    def store_dsn(self, prefix: str) -> str:
        """Return the DSN of a store on this server, whose keys begin with ``prefix``. It holds the password."""
        credentials = (
            "" if self.password is None else f"{quote(self.user or '', safe='')}:{quote(self.password, safe='')}@"
        )
        where = ",".join(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in self.hosts)
        options = {each.name: getattr(self.options, each.name) for each in fields(ServerOptions)}
        given = {name: str(value) for name, value in options.items() if value is not None and name != "auth"}
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{credentials}{where}{self.socket or ''}?{urlencode({**given, 'prefix': prefix})}"

    def __str__(self) -> str:
        where = self.socket or ",".join(f"{name}:{port}" for name, port in self.hosts)
        if self.options.sentinel_master is not None:
            return f'Redis master "{self.options.sentinel_master}" of the Sentinels at "{where}"'
        return f'Redis {"cluster " if self.is_cluster else ""}at "{where}"'


def transport_options(name: str, dsn: Dsn, options: Mapping[str, object]) -> tuple[RedisOptions, Place]:
    """Read a transport's DSN, ``redis://host/stream/group/consumer``, and its options.

    Raises:
        ConfigurationError: an option is unknown or wrong, or the DSN names no server.
    """
    dsn, path = _taken_apart(dsn)
    parts = dict(zip(("stream", "group", "consumer"), (each for each in path.split("/") if each), strict=False))
    if len([each for each in path.split("/") if each]) > len(("stream", "group", "consumer")):
        raise ConfigurationError(f'Transport "{name}": the path of a Redis DSN is "/stream/group/consumer"')
    checked = options_from(RedisOptions, dsn, {**options, **parts}, name)
    return checked, _place(f'Transport "{name}"', dsn, checked)


def server_options(subject: str, dsn: Dsn) -> Place:
    """Read the DSN of a store, ``redis://host``, without its own options.

    Raises:
        ConfigurationError: an option is unknown or wrong, or the DSN names no server.
    """
    dsn, path = _taken_apart(dsn)
    number = path.strip("/")
    options: dict[str, object] = {"dbindex": number} if number else {}
    return _place(subject, dsn, options_from(ServerOptions, dsn, options, subject))


def _taken_apart(dsn: Dsn) -> tuple[Dsn, str]:
    """Return the DSN with all its hosts and without its path, and that path.

    Symfony writes several hosts as ``redis://a:6379,redis://b:6379/stream``.
    """
    hosts, path = list(dsn.hosts), dsn.path
    while hosts and hosts[-1] == Host(dsn.scheme) and path.startswith("//"):
        rest, slash, path = path.removeprefix("//").partition("/")
        hosts.pop()
        for each in rest.split(","):
            name, _, port = each.partition(":")
            hosts.append(Host(name, int(port) if port.isdecimal() else None))
        path = slash + path
    if not hosts:  # redis:///var/run/redis.sock
        return Dsn(dsn.scheme, (), dsn.user, dsn.password, dsn.path, dsn.query), ""
    return Dsn(dsn.scheme, tuple(hosts), dsn.user, dsn.password, "", dsn.query), path


def _place(subject: str, dsn: Dsn, options: ServerOptions) -> Place:
    if not dsn.hosts and not dsn.path:
        raise ConfigurationError(f'{subject}: the DSN names no server, as in "redis://localhost:6379"')
    # A lone name is a password, as Redis had it before there were users.
    user, password = (dsn.user, dsn.password) if dsn.password is not None else (None, dsn.user or options.auth)
    default = _DEFAULT_PORT if options.sentinel_master is None else _DEFAULT_SENTINEL_PORT
    return Place(
        hosts=tuple((each.name, each.port or default) for each in dsn.hosts),
        socket=dsn.path if not dsn.hosts else None,
        user=user or None,
        password=password,
        tls=options.tls or dsn.scheme == "rediss",
        options=options,
    )
