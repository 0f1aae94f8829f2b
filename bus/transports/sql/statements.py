"""The statements that all databases share, compiled once per table. Parameters are named."""

# ruff: noqa: D102 - each method builds the statement of its name, described in the class of the statements

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Dialect,
    Table,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    not_,
    null,
    select,
    update,
)


@dataclass(frozen=True, slots=True)
class Statements:
    """SQL texts in the paramstyle of a dialect. Those with a ``token`` touch only what that token holds.

    Attributes:
        insert: a new message.
        next_due: when the next delayed message of one lane becomes due, or NULL.
        put_back: change a held message and let it go: requeued or parked.
        give_back: let a held message go to its old place, as if it had not been delivered.
        counts: how many messages there are, in flight, parked and delayed.
        peek: messages behind an id, with their state.
    """

    insert: str
    next_due: str
    put_back: str
    give_back: str
    counts: str
    peek: str


S = TypeVar("S", bound=Statements)


def compiled(kind: type[S], builder: StatementBuilder, dialect: Dialect) -> S:
    """Compile the statements, each by the builder's method of that name.

    Without our columns (``complete``) ``insert``, ``counts`` and ``peek`` do with Symfony's; the others cannot be
    executed.
    """
    return kind(**{each.name: _text_of(getattr(builder, each.name)(), dialect) for each in fields(kind)})


def _text_of(statement: ClauseElement | str, dialect: Dialect) -> str:
    return statement if isinstance(statement, str) else str(statement.compile(dialect=dialect))


class StatementBuilder(ABC):
    """Writes the statements on one table. How times are told and who holds what differs between databases."""

    now: ColumnElement[Any]
    due: ColumnElement[Any]
    parked: ColumnElement[Any]
    held_by_us: ColumnElement[bool]
    held_by_php: ColumnElement[bool]

    def __init__(self, table: Table, *, complete: bool) -> None:
        self.table = table
        self.complete = complete
        c = self.c = table.c
        self.in_lane = and_(c.queue_name == bindparam("queue"), c.lane == bindparam("lane"))
        self.held_by_token = and_(c.id == bindparam("row"), c.claim_token == bindparam("token"))
        self.let_go = {"claim_token": null(), "delivered_at": null()}

    @abstractmethod
    def next_due(self) -> ClauseElement:
        """Build ``next_due``."""

    def insert(self) -> ClauseElement | str:
        values: dict[str, ColumnElement[Any]] = {
            "queue_name": bindparam("queue"),
            "body": bindparam("body"),
            "headers": bindparam("headers"),
            "created_at": self.now,
            "available_at": self.due,
        }
        if self.complete:
            values |= {"lane": bindparam("lane"), "message_id": bindparam("message")}
        return insert(self.table).values(values)

    def put_back(self) -> ClauseElement:
        values: dict[str, ColumnElement[Any]] = {
            "body": bindparam("new_body"),
            "headers": bindparam("new_headers"),
            "available_at": self.due,
            "deliveries": literal_column("0"),
        }
        return update(self.table).where(self.held_by_token).values(values | self.let_go)

    def give_back(self) -> ClauseElement:
        values = {"available_at": bindparam("place"), "deliveries": self.c.deliveries - literal_column("1")}
        return update(self.table).where(self.held_by_token).values(values | self.let_go)

    def counts(self) -> ClauseElement:
        # One pass, and three times as fast as a GROUP BY over the state.
        numbers = [func.count(case((condition, literal_column("1")))) for condition in self._states().values()]
        return select(func.count(), *numbers).where(self.c.queue_name == bindparam("queue"))

    def peek(self) -> ClauseElement:
        c = self.c
        return (
            select(c.id, c.body, c.headers, self._state())
            .where(c.queue_name == bindparam("queue"), c.id > bindparam("after"))
            .order_by(c.id)
            .limit(bindparam("limit"))
            .offset(literal_column("0"))  # else SQLite's dialect adds a parameter of its own
        )

    def _states(self) -> dict[str, ColumnElement[bool]]:
        """Return the conditions of the states; ready is what is in none of them."""
        free = not_(self.held_by_php)
        if self.complete:
            free = and_(free, not_(self.held_by_us))
        waiting = self.c.available_at < self.parked
        return {
            "in_flight": not_(free),
            "parked": and_(free, not_(waiting)),
            "delayed": and_(free, waiting, self.c.available_at > self.now),
        }

    def _state(self) -> ColumnElement[str]:
        states = [(condition, text_of(name)) for name, condition in self._states().items()]
        return case(*states, else_=text_of("ready")).label("state")


def text_of(value: str) -> ColumnElement[str]:
    """Return a text constant."""
    return literal_column(f"'{value}'")
