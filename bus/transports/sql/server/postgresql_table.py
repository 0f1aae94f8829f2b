"""A queue in a PostgreSQL table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bus.transports.sql.options import SqlOptions
from bus.transports.sql.schema import Layout, messages_table
from bus.transports.sql.server.postgresql_statements import PostgresBuilder, PostgresStatements
from bus.transports.sql.server.table import ServerTable
from bus.transports.sql.statements import compiled
from bus.transports.sql.table import Parameters, Row, fetch


class PostgresTable(ServerTable[PostgresStatements]):
    """One queue in a table of a known layout, in PostgreSQL."""

    def __init__(self, options: SqlOptions, layout: Layout) -> None:
        builder = PostgresBuilder(
            messages_table(options.table_name),
            complete=layout.complete,
            whole_seconds=layout.whole_seconds,
            redeliver_timeout=options.redeliver_timeout,
        )
        super().__init__(options, layout, compiled(PostgresStatements, builder, builder.dialect))

    def insert(self, cursor: Any, rows: Sequence[Parameters]) -> Sequence[int]:
        """Insert rows and return their ids."""
        parameters = {
            "queues": [row["queue"] for row in rows],
            "bodies": [row["body"] for row in rows],
            "headers": [row["headers"] for row in rows],
            "delays": [row["delay"] for row in rows],
            "lanes": [row["lane"] for row in rows],
            "messages": [row["message"] for row in rows],
        }
        return [row for (row,) in fetch(cursor, self.statements.insert, parameters)]

    def claim(self, cursor: Any, token: str, beside: Sequence[int], limit: int) -> Sequence[Row]:
        """Claim the first due messages in order, and a message that was delivered before alone."""
        parameters = {"queue": self.queue, "token": token, "beside": list(beside), "limit": limit}
        return [Row(*row) for row in fetch(cursor, self.statements.claim, parameters)]

    def take(self, cursor: Any, token: str, row: int) -> Row | None:
        """Claim this message, whenever it is due; None when it is gone or held."""
        found = fetch(cursor, self.statements.take, {"row": row, "queue": self.queue, "token": token})
        return Row(*found[0]) if found else None

    def renew(self, cursor: Any, token: str, rows: Collection[int]) -> None:
        """Keep these for another lease, where the token still holds them."""
        cursor.execute(self.statements.renew, {"rows": sorted(rows), "token": token})

    def settle(self, cursor: Any, token: str, removed: Sequence[int], changed: Sequence[Parameters]) -> set[int]:
        """Remove and change held rows; return the ids of those that the token did hold. The others are untouched."""
        if not changed:
            found = fetch(cursor, self.statements.remove, {"rows": sorted(removed), "token": token})
            return {row for (row,) in found}
        parameters = {
            "token": token,
            "removed": sorted(removed),
            "changed": [change["row"] for change in changed],
            "bodies": [change["new_body"] for change in changed],
            "headers": [change["new_headers"] for change in changed],
            "delays": [change["delay"] for change in changed],
        }
        return {row for (row,) in fetch(cursor, self.statements.settle, parameters)}

    def give_back(self, cursor: Any, token: str, places: Mapping[int, object]) -> None:
        """Let held rows go to their old places, as if they had not been delivered."""
        self._put_in_place(cursor, token, places, uncounted=1)

    def release(self, cursor: Any, token: str, places: Mapping[int, object]) -> None:
        """Let held rows go to their old places, counted as delivered."""
        self._put_in_place(cursor, token, places, uncounted=0)

    def _put_in_place(self, cursor: Any, token: str, places: Mapping[int, object], *, uncounted: int) -> None:
        rows, times = list(places), list(places.values())
        parameters = {"rows": rows, "places": times, "uncounted": uncounted, "token": token}
        cursor.execute(self.statements.give_back, parameters)
