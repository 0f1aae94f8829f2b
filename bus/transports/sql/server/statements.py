"""The statements that database servers share. The server tells the time, in UTC."""

# ruff: noqa: D102 - each method builds the statement of its name, described in the class of the statements

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Integer,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    not_,
    or_,
    select,
    update,
)

from bus.transports.sql.statements import StatementBuilder, Statements

LEASE: int = 15  # seconds
PARKED = "9999-12-31 00:00:00"


class Times(Protocol):
    """How a dialect tells the time, as expressions.

    Attributes:
        now: the time at which the statement arrived at the server, to the millisecond or, in a table made by Symfony,
            cut to the second.
    """

    now: ColumnElement[Any]

    def plus(self, time: ColumnElement[Any], milliseconds: ColumnElement[int]) -> ColumnElement[Any]:
        """Return a time and so many milliseconds more, cut to the precision of the table."""

    def constant(self, text: str) -> ColumnElement[Any]:
        """Return a time that is written out."""

    def milliseconds_until(self, time: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the milliseconds from now to a time."""


@dataclass(frozen=True, slots=True)
class ServerStatements(Statements):
    """What servers need beside the shared statements.

    Attributes:
        lanes: the lanes of a queue, the most urgent first.
        holders: how many messages of one lane somebody else than ``token`` holds: one range of the index.
        free: let go what stands in one lane under leases that are over. It goes to the place of its age.
    """

    lanes: str
    holders: str
    free: str


class ServerBuilder(StatementBuilder):
    """Writes the statements on one table in a server."""

    def __init__(self, table: Table, times: Times, *, complete: bool, redeliver_timeout: int) -> None:
        super().__init__(table, complete=complete)
        c = self.c
        self.times = times
        self.now = times.now
        self.parked = times.constant(PARKED)
        # No delay at all, NULL, is never.
        self.due = func.coalesce(times.plus(self.now, bindparam("delay", type_=BigInteger)), self.parked)
        self.lease_end = times.plus(self.now, literal_column(str(LEASE * 1000), Integer))
        self.lease_began = times.plus(self.now, literal_column(str(-LEASE * 1000), Integer))
        self._php_gave_up = times.plus(self.now, literal_column(str(-redeliver_timeout * 1000), BigInteger))
        # We lease what we hold: it is due after it was delivered. A PHP worker takes what is due, and leaves that as it
        # is, so that there the delivery comes after it.
        self._leased = and_(c.delivered_at.is_not(None), c.delivered_at < c.available_at)
        self.held_by_us = and_(self._leased, c.delivered_at > self.lease_began) if complete else literal_column("false")
        self.held_by_php = and_(
            c.delivered_at.is_not(None), c.delivered_at >= c.available_at, c.delivered_at >= self._php_gave_up
        )
        # A parked message that is held keeps its place, because a dead worker could not put it back there.
        self.held_until = case((c.available_at >= self.parked, c.available_at), else_=self.lease_end)

    def next_due(self) -> ClauseElement:
        due = self.c.available_at
        first = (
            select(func.min(due))
            .where(self.in_lane, due > self.now, due < self.parked, not_(self._leased))
            .scalar_subquery()
        )
        return select(self.times.milliseconds_until(first))

    def lanes(self) -> ClauseElement | str:
        c = self.c
        return select(c.lane).distinct().where(c.queue_name == bindparam("queue")).order_by(c.lane)

    def holders(self) -> ClauseElement:
        c = self.c
        return select(func.count()).where(
            self.in_lane,
            c.available_at > self.now,
            c.available_at <= self.lease_end,
            self._leased,
            or_(c.claim_token.is_(None), c.claim_token != bindparam("token")),
        )

    def free(self) -> ClauseElement:
        c = self.c
        place = case((c.created_at < self.now, c.created_at), else_=self.now)
        return (
            update(self.table)
            .where(self.in_lane, c.available_at <= self.now, self._leased)
            .values({"available_at": place} | self.let_go)
        )
