"""A process that dispatches the same messages as others do.

    idempotency_program.py DATABASE JOURNAL KEYS SECONDS [STORE]

Each effect is one line of the journal. It prints "ready", begins when its standard input ends, and goes on until every
message is done.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

from bus import (
    BusConfig,
    Envelope,
    HandlerFailedError,
    InProgressElsewhereError,
    MessageIdStamp,
    Messenger,
    MessengerConfig,
    MiddlewareConfig,
)


@dataclass(frozen=True)
class Placed:
    number: int


class NaiveIdempotency:
    """What must not be: it looks whether a message is done, handles it, and then notes that it is."""

    def __init__(self, store: object) -> None:
        self._store = store

    def __call__(self, call, call_next):
        key = f"{call.envelope.last(MessageIdStamp).id}:{call.handler.name}"
        if self._store.get(key) is not None:
            return None
        result = call_next(call)
        self._store.put_if_absent(key, "done")
        return result


def naive(database: str) -> NaiveIdempotency:
    from bus import SqlStore

    return NaiveIdempotency(SqlStore(database))


def main(database: str, journal: str, keys: int, seconds: float, middleware: MiddlewareConfig) -> None:
    def effect(placed: Placed) -> None:
        time.sleep(seconds)
        file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{placed.number}\n".encode())
        os.close(file)

    config = MessengerConfig(
        buses={"bus": BusConfig(middleware=(middleware,))}, connections={"default": f"sqlite:///{database}"}
    )
    with Messenger(config, handlers=[effect]) as messenger:
        messenger.store.get("connect")
        print("ready", flush=True)
        sys.stdin.read()
        waiting = [Envelope(Placed(number), (MessageIdStamp(f"m-{number}"),)) for number in range(keys)]
        while waiting:
            waiting = [each for each in waiting if not is_done(messenger, each)]


def is_done(messenger: Messenger, envelope: Envelope) -> bool:
    try:
        messenger.dispatch(envelope)
    except HandlerFailedError as failed:
        if all(isinstance(error, InProgressElsewhereError) for error in failed.errors.values()):
            return False
        raise
    return True


if __name__ == "__main__":
    database, journal, keys, seconds, *rest = sys.argv[1:]
    if rest == ["naive"]:
        chosen = MiddlewareConfig(name="tests.integration.idempotency_program:naive", arguments={"database": database})
    else:
        chosen = MiddlewareConfig(name="idempotency", arguments={"store": rest[0]} if rest else {})
    main(database, journal, int(keys), float(seconds), chosen)
