"""What a Redis has to have, and what it should have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from bus.errors import ConnectionLostError, TransportError
from bus.transports.redis.connection import Server
from bus.transports.redis.keys import Keys
from bus.transports.redis.options import RedisOptions

logger = logging.getLogger(__name__)

_OLDEST: Final = (6, 2)


def warn_about(server: Server) -> None:
    """Log how the server may lose messages. One that does not let itself be asked is taken as it is.

    Raises:
        TransportError: it cannot be reached, or is too old.
    """
    try:
        facts = _facts(server)
    except ConnectionLostError:
        raise
    except TransportError as error:
        logger.info("%s does not say how it is set up: %s", server, error)
        return
    version = tuple(int(each) for each in facts.get("redis_version", "7.0").split(".")[:2])
    if version < _OLDEST:
        raise TransportError(f"{server} is version {facts['redis_version']}; the transport needs 6.2 or newer")
    for warning in dangers(facts):
        logger.warning("%s %s", server, warning)


def dangers(facts: dict[str, str]) -> Sequence[str]:
    """Return how a server with these facts may lose messages."""
    found = []
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(
            f'removes messages when its memory is full (maxmemory-policy "{policy}"); '
            'set maxmemory-policy to "noeviction"'
        )
    if facts.get("aof_enabled", "1") == "0":
        found.append("loses messages when it ends (no append-only file); set appendonly to yes")
    return found


def set_up(options: RedisOptions, keys: Keys, server: Server) -> None:
    """Create stream and group where they are missing. Raises TransportError."""
    try:
        server.execute("XGROUP", "CREATE", keys.stream, options.group, "0", "MKSTREAM")
    except TransportError as error:
        if "BUSYGROUP" not in str(error):
            raise
    else:
        logger.info('Group "%s" of stream "%s" was made', options.group, options.stream)


def missing(options: RedisOptions, keys: Keys, server: Server) -> Sequence[str]:
    """Return what is missing and what is dangerous, one sentence each. Raises TransportError."""
    found = []
    groups = server.execute("XINFO", "GROUPS", keys.stream) if server.execute("EXISTS", keys.stream) else []
    names = [dict(zip(each[::2], each[1::2], strict=False)).get(b"name") for each in groups]
    if options.group.encode() not in names:
        found.append(missing_group(options, server))
    found += [f"{server} {each}" for each in dangers(_facts(server))]
    return found


def missing_group(options: RedisOptions, server: Server) -> str:
    """Say that there is no such group."""
    return (
        f'{server} has no group "{options.group}" of stream "{options.stream}"; create it with '
        '"bus setup-transports", or leave auto_setup on'
    )


def _facts(server: Server) -> dict[str, str]:
    answer = server.ask("INFO", "everything")
    if isinstance(answer, dict):  # the client has read it already
        return {str(name): str(value) for name, value in answer.items()}
    lines = bytes(answer).decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
