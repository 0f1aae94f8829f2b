"""A queue in a MariaDB or MySQL table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bus.transports.sql.options import SqlOptions
from bus.transports.sql.partitions import FIRST_LANE
from bus.transports.sql.schema import Layout, messages_table
from bus.transports.sql.server.mysql_statements import MysqlBuilder, MysqlStatements
from bus.transports.sql.server.table import ServerTable
from bus.transports.sql.statements import compiled
from bus.transports.sql.table import Parameters, Row, fetch


class MysqlTable(ServerTable[MysqlStatements]):
    """One queue in a table of a known layout, in MariaDB or MySQL."""

    def __init__(self, options: SqlOptions, layout: Layout) -> None:
        builder = MysqlBuilder(
            messages_table(options.table_name),
            complete=layout.complete,
            whole_seconds=layout.whole_seconds,
            redeliver_timeout=options.redeliver_timeout,
        )
        super().__init__(options, layout, compiled(MysqlStatements, builder, builder.dialect))

    def insert(self, cursor: Any, rows: Sequence[Parameters]) -> Sequence[int]:
        """Insert rows and return their ids."""
        if not rows:
            return ()
        # One statement for all of them, whose ids follow each other.
        cursor.execute(self.statements.insert + ", ".join(cursor.mogrify(self.statements.new, row) for row in rows))
        first, step = cursor.lastrowid, 1
        if len(rows) > 1:
            cursor.execute("SELECT @@auto_increment_increment")
            ((step,),) = cursor.fetchall()
        return [first + step * position for position in range(len(rows))]

    def claim(self, cursor: Any, token: str, beside: Sequence[int], limit: int) -> Sequence[Row]:
        """Claim the first due messages in order, and a message that was delivered before alone."""
        rows: list[Row] = []
        for lane in self._readable(cursor, beside):
            parameters = {"queue": self.queue, "lane": lane, "limit": limit - len(rows)}
            for found in fetch(cursor, self.statements.ready, parameters):
                row = Row(*found)._replace(lane=lane)
                if row.deliveries and rows:
                    return self._hold(cursor, token, rows)
                rows.append(row)
                if row.deliveries:
                    return self._hold(cursor, token, rows)
            if len(rows) == limit:
                break
        return self._hold(cursor, token, rows)

    def _readable(self, cursor: Any, beside: Sequence[int]) -> Sequence[int]:
        there = list(self.lanes(cursor))
        return [
            *(lane for lane in there if lane < 0),
            *(lane for lane in beside if lane in there),
            *(lane for lane in there if 0 < lane < FIRST_LANE),
        ]

    def take(self, cursor: Any, token: str, row: int) -> Row | None:
        """Claim this message, whenever it is due; None when it is gone or held."""
        found = fetch(cursor, self.statements.one, {"row": row, "queue": self.queue})
        return self._hold(cursor, token, [Row(*found[0])])[0] if found else None

    def _hold(self, cursor: Any, token: str, rows: list[Row]) -> list[Row]:
        if rows:
            cursor.execute(self.statements.hold, {"rows": sorted(row.id for row in rows), "token": token})
        return rows

    def renew(self, cursor: Any, token: str, rows: Collection[int]) -> None:
        """Keep these for another lease, where the token still holds them."""
        cursor.execute(self.statements.renew, {"rows": sorted(rows), "token": token})

    def settle(self, cursor: Any, token: str, removed: Sequence[int], changed: Sequence[Parameters]) -> set[int]:
        """Remove and change held rows; return the ids of those that the token did hold. The others are untouched."""
        ids = sorted([*removed, *(int(str(change["row"])) for change in changed)])
        owned = {row for (row,) in fetch(cursor, self.statements.owned, {"rows": ids, "token": token})}
        if removed:
            cursor.execute(self.statements.remove, {"rows": sorted(removed), "token": token})
        if changed:
            cursor.executemany(self.statements.put_back, [{**change, "token": token} for change in changed])
        return owned

    def release(self, cursor: Any, token: str, places: Mapping[int, object]) -> None:
        """Let held rows go to their old places, counted as delivered."""
        parameters = [{"row": row, "place": place, "token": token} for row, place in sorted(places.items())]
        cursor.executemany(self.statements.release, parameters)
