"""The application of the exactly-once tests: each order has one effect, and one message for each of two databases."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, text

import bus
from bus import Envelope, handler, message
from tests.faults.application import JOURNAL_VARIABLE
from tests.faults.behaviours import BEHAVIOURS
from tests.faults.ledger import DONE, Journal


@message("fault.order")
@dataclass(frozen=True)
class Order:
    """``does`` names a behaviour of its handler."""

    number: int
    does: str = "nothing"
    argument: float = 0.0


@message("fault.invoice")
@dataclass(frozen=True)
class Invoice:
    """Sent to the database of the effects."""

    number: int


@message("fault.parcel")
@dataclass(frozen=True)
class Parcel:
    """Sent to another database."""

    number: int


@message("fault.letter")
@dataclass(frozen=True)
class Letter:
    """Its handler has no transaction."""

    number: int
    does: str = "nothing"
    argument: float = 0.0


@handler(bus="transactional")
def place(order: Order, connection: Connection, envelope: Envelope) -> None:
    connection.execute(text("INSERT INTO effects (number) VALUES (:number)"), {"number": order.number})
    bus.dispatch(Invoice(order.number))
    bus.dispatch(Parcel(order.number))
    BEHAVIOURS[order.does](order.argument, envelope)


@handler(bus="plain")
def send(letter: Letter, envelope: Envelope) -> None:
    BEHAVIOURS[letter.does](letter.argument, envelope)
    Journal(Path(os.environ[JOURNAL_VARIABLE])).write(DONE, letter.number)
    bus.dispatch(Parcel(letter.number))
