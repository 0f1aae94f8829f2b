"""``sync://``: the message is handled where it is dispatched. It is a name, not a driver: there is nothing to move."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SyncTransport:
    """A transport that hands a message on at once. Its name serves a handler's ``from_transport``."""

    name: str
