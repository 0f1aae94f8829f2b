"""The statements for PostgreSQL: each step is one of them, for any number of messages, in a round trip of its own."""

# ruff: noqa: D102, S608 - each method builds the statement of its name; the name of the table is a checked, plain one

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table, func, literal_column, type_coerce
from sqlalchemy.dialects.postgresql import INTERVAL, TIMESTAMP

from bus.transports.sql.partitions import FIRST_LANE
from bus.transports.sql.server.postgresql import postgresql_dialect
from bus.transports.sql.server.statements import ServerBuilder, ServerStatements

_MILLISECOND = literal_column("interval '1 millisecond'", INTERVAL)


class PostgresTimes:
    """How PostgreSQL tells the time."""

    def __init__(self, *, whole_seconds: bool) -> None:
        self._precision = "second" if whole_seconds else "milliseconds"
        # Not now(), which stands still within a transaction.
        self.now: ColumnElement[Any] = self._cut(literal_column("statement_timestamp() AT TIME ZONE 'UTC'", TIMESTAMP))

    def plus(self, time: ColumnElement[Any], milliseconds: ColumnElement[int]) -> ColumnElement[Any]:
        return self._cut(time + milliseconds * _MILLISECOND)

    def constant(self, text: str) -> ColumnElement[Any]:
        return literal_column(f"timestamp '{text}'", TIMESTAMP)

    def milliseconds_until(self, time: ColumnElement[Any]) -> ColumnElement[Any]:
        seconds = func.date_part(literal_column("'epoch'"), type_coerce(time, TIMESTAMP) - self.now)
        return seconds * literal_column("1000")

    def _cut(self, time: ColumnElement[Any]) -> ColumnElement[Any]:
        # A column of whole seconds would round up, into the future.
        return func.date_trunc(literal_column(f"'{self._precision}'"), time, type_=TIMESTAMP)


@dataclass(frozen=True, slots=True)
class PostgresStatements(ServerStatements):
    """What PostgreSQL needs beside the statements of servers. Arrays carry what concerns many messages.

    Attributes:
        claim: claim the first messages of the readable lanes, in order of ``place``.
        take: claim one message by its id.
        remove: delete what a token holds; returns the ids of what it did hold.
        settle: remove and put back what a token holds; returns the ids of what it did hold.
        renew: keep what a token holds for another lease.
    """

    claim: str
    take: str
    remove: str
    settle: str
    renew: str


class PostgresBuilder(ServerBuilder):
    """Writes the statements on one table in PostgreSQL."""

    def __init__(self, table: Table, *, complete: bool, whole_seconds: bool, redeliver_timeout: int) -> None:
        times = PostgresTimes(whole_seconds=whole_seconds)
        super().__init__(table, times, complete=complete, redeliver_timeout=redeliver_timeout)
        self.dialect = postgresql_dialect()
        self._name = self.dialect.identifier_preparer.format_table(table)

    def insert(self) -> str:
        ours = ", lane, message_id" if self.complete else ""
        values = ", lane, message" if self.complete else ""
        return (
            f"INSERT INTO {self._name} (queue_name, body, headers, created_at, available_at{ours}) "
            f"SELECT queue, body, headers, {self._sql(self.now)}, {self._due('delay')}{values} "
            "FROM unnest(%(queues)s::text[], %(bodies)s::text[], %(headers)s::text[], %(delays)s::bigint[], "
            "%(lanes)s::integer[], %(messages)s::text[]) "
            "WITH ORDINALITY AS new (queue, body, headers, delay, lane, message, position) "
            "ORDER BY position RETURNING id"
        )

    def lanes(self) -> str:
        return f"WITH RECURSIVE {self._lanes()} SELECT lane FROM lanes WHERE lane IS NOT NULL ORDER BY lane"

    def claim(self) -> str:
        # The lanes come in the order of their turns, and the join keeps it, because what is joined depends on the lane;
        # so the outer LIMIT locks no more rows than are wanted. A message that was delivered before comes alone.
        return f"""
            WITH RECURSIVE {self._lanes()},
            readable AS (
                SELECT lane, row_number() OVER (
                    ORDER BY CASE WHEN lane = ANY(%(beside)s::integer[]) THEN 1 WHEN lane < 0 THEN 0 ELSE 2 END,
                        array_position(%(beside)s::integer[], lane), lane
                ) AS turn
                FROM lanes WHERE lane < {FIRST_LANE} OR lane = ANY(%(beside)s::integer[])
                ORDER BY turn
            ),
            ready AS MATERIALIZED (
                SELECT found.*, readable.lane, readable.turn
                FROM readable CROSS JOIN LATERAL (
                    SELECT id, available_at, deliveries FROM {self._name}
                    WHERE queue_name = %(queue)s AND lane = readable.lane AND available_at <= {self._sql(self.now)}
                        AND NOT ({self._sql(self.held_by_php)})
                    ORDER BY available_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
                ) AS found
                LIMIT %(limit)s
            ),
            placed AS (
                SELECT id, available_at, deliveries, lane, row_number() OVER (ORDER BY turn, available_at, id) AS place
                FROM ready
            ),
            chosen AS (
                SELECT * FROM placed WHERE place = 1
                    OR place < coalesce((SELECT min(place) FROM placed WHERE deliveries > 0), 1 + %(limit)s)
            ),
            claimed AS (
                UPDATE {self._name} SET claim_token = %(token)s, deliveries = coalesce(deliveries, 0) + 1,
                    delivered_at = {self._sql(self.now)}, available_at = {self._sql(self.lease_end)}
                WHERE id = ANY(ARRAY(SELECT id FROM chosen))
                RETURNING id, body, headers, deliveries - 1 AS deliveries
            )
            SELECT claimed.id, body, headers, claimed.deliveries, chosen.available_at, chosen.lane
            FROM claimed JOIN chosen ON claimed.id = chosen.id ORDER BY place
        """

    def take(self) -> str:
        return f"""
            WITH found AS MATERIALIZED (
                SELECT id, available_at FROM {self._name}
                WHERE id = %(row)s AND queue_name = %(queue)s
                    AND NOT ({self._sql(self.held_by_us)}) AND NOT ({self._sql(self.held_by_php)})
                FOR UPDATE SKIP LOCKED
            ),
            claimed AS (
                UPDATE {self._name} SET claim_token = %(token)s, deliveries = coalesce(deliveries, 0) + 1,
                    delivered_at = {self._sql(self.now)}, available_at = {self._sql(self.held_until)}
                WHERE id = ANY(ARRAY(SELECT id FROM found))
                RETURNING id, body, headers, deliveries - 1 AS deliveries
            )
            SELECT claimed.id, body, headers, deliveries, found.available_at FROM claimed JOIN found USING (id)
        """

    def remove(self) -> str:
        return f"DELETE FROM {self._name} WHERE id = ANY(%(rows)s::bigint[]) AND claim_token = %(token)s RETURNING id"

    def settle(self) -> str:
        return f"""
            WITH removed AS (
                DELETE FROM {self._name} WHERE id = ANY(%(removed)s::bigint[]) AND claim_token = %(token)s RETURNING id
            ),
            changed AS (
                UPDATE {self._name} AS message
                SET body = new.body, headers = new.headers, available_at = {self._due("new.delay")}, deliveries = 0,
                    claim_token = NULL, delivered_at = NULL
                FROM unnest(%(changed)s::bigint[], %(bodies)s::text[], %(headers)s::text[], %(delays)s::bigint[])
                    AS new (id, body, headers, delay)
                WHERE message.id = new.id AND message.id = ANY(%(changed)s::bigint[]) AND claim_token = %(token)s
                RETURNING message.id
            )
            SELECT id FROM removed UNION ALL SELECT id FROM changed
        """

    def give_back(self) -> str:  # type: ignore[override]
        return f"""
            UPDATE {self._name} AS message
            SET available_at = old.place, deliveries = deliveries - %(uncounted)s::integer, claim_token = NULL,
                delivered_at = NULL
            FROM unnest(%(rows)s::bigint[], %(places)s::timestamp[]) AS old (id, place)
            WHERE message.id = old.id AND message.id = ANY(%(rows)s::bigint[]) AND claim_token = %(token)s
        """

    def renew(self) -> str:
        # What is locked is being settled: waiting for it could be a deadlock.
        return f"""
            UPDATE {self._name} SET delivered_at = {self._sql(self.now)}, available_at = {self._sql(self.held_until)}
            WHERE id = ANY(ARRAY(
                SELECT id FROM {self._name} WHERE id = ANY(%(rows)s::bigint[]) AND claim_token = %(token)s
                ORDER BY id FOR UPDATE SKIP LOCKED
            ))
        """

    def _lanes(self) -> str:
        """Return the lanes of the queue as a common table: one step down the index for each, and a NULL."""
        return f"""
            lanes (lane) AS (
                SELECT min(lane) FROM {self._name} WHERE queue_name = %(queue)s
                UNION ALL
                SELECT (SELECT min(above.lane) FROM {self._name} AS above
                        WHERE above.queue_name = %(queue)s AND above.lane > lanes.lane)
                FROM lanes WHERE lanes.lane IS NOT NULL
            )"""

    def _due(self, delay: str) -> str:
        due = self.times.plus(self.now, literal_column(delay))
        return f"coalesce({self._sql(due)}, {self._sql(self.parked)})"

    def _sql(self, expression: ColumnElement[Any]) -> str:
        return str(expression.compile(dialect=self.dialect))
