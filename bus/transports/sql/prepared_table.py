"""The table made ready: looked at once, created or completed where that is allowed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from bus.errors import AccessDeniedError, quoted
from bus.transports.sql.database import Database
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.schema import Layout, layout_of, messages_table, statements_to_set_up
from bus.transports.sql.table import QueueTable

logger = logging.getLogger(__name__)

SEND_DEADLINE: Final = 5.0  # seconds

Q = TypeVar("Q", bound=QueueTable[Any])

TableMaker: TypeAlias = Callable[[SqlOptions, Layout], Q]


class PreparedTable(Generic[Q]):
    """What a driver knows of its table. Thread-safe: looking twice does no harm."""

    def __init__(self, database: Database, options: SqlOptions, make_table: TableMaker[Q]) -> None:
        self._database = database
        self._options = options
        self._make_table = make_table
        self._table: Q | None = None

    def look_again(self) -> None:
        """Forget what is known, after an error."""
        self._table = None

    def set_up(self) -> None:
        """Create the table, or add what is missing to it. Harmless when called again, also at the same time."""
        self._set_up()
        self._table = None

    def _set_up(self) -> Layout:
        """Create what is missing; return what is there then."""
        table = messages_table(self._options.table_name)

        def create_what_is_missing(cursor: Any) -> tuple[Layout | None, Sequence[str]]:
            layout = layout_of(self._database.engine, table)
            if layout is not None and layout.foreign:
                raise AccessDeniedError(self._foreign(layout))
            statements = statements_to_set_up(table, layout, self._database.dialect)
            for statement in statements:
                cursor.execute(statement)
            return layout, statements

        layout, statements = self._database.alter(create_what_is_missing, within=SEND_DEADLINE)
        if statements:
            logger.info('Table "%s" was set up in %s', table.name, self._database)
        whole_seconds = layout is not None and layout.whole_seconds
        return Layout(frozenset(table.c.keys()), has_index=True, whole_seconds=whole_seconds)

    def ddl(self) -> Sequence[str]:
        """Return the statements that create the table, or add what is missing to it."""
        table, layout = messages_table(self._options.table_name), self._layout()
        if layout is not None and layout.foreign:
            raise AccessDeniedError(self._foreign(layout))
        return statements_to_set_up(table, layout, self._database.dialect)

    def lacks(self) -> Sequence[str]:
        """Return what the table lacks, as the statements that add it."""
        table, layout = messages_table(self._options.table_name), self._layout()
        if layout is None:
            return (f'there is no table "{table.name}" in {self._database}',)
        if layout.foreign:
            return (self._foreign(layout),)
        return tuple(
            f"{self._database} needs: {statement}"
            for statement in statements_to_set_up(table, layout, self._database.dialect)
        )

    def usable(self) -> Q:
        """Return the table for sending and settling, set up if need be."""
        if self._database.was_replaced():
            self.look_again()
        if self._table is None:
            layout = self._layout()
            if self._options.auto_setup and (layout is None or not layout.ready):
                layout = self._set_up()
            self._table = self._known(layout)
        return self._table

    def _known(self, layout: Layout | None) -> Q:
        if layout is None:
            raise AccessDeniedError(
                f'{self._database} has no table "{self._options.table_name}"; create it with '
                '"bus setup-transports", or leave auto_setup on'
            )
        if layout.foreign:
            raise AccessDeniedError(self._foreign(layout))
        return self._make_table(self._options, layout)

    def usable_in(self, cursor: Any) -> Q:
        """Return the table for sending within a transaction, which creates it where it is missing."""
        if not self._database.has_one_writer:
            return self.usable()
        layout = None if self._table is not None else self._layout()
        if self._table is not None or layout is not None or not self._options.auto_setup:
            return self._table or self._known(layout)
        # Another connection would wait for this transaction. What is created now may be rolled back, so it is not kept.
        table = messages_table(self._options.table_name)
        for statement in statements_to_set_up(table, None, self._database.dialect):
            cursor.execute(statement)
        return self._make_table(self._options, Layout(frozenset(table.c.keys()), has_index=True, whole_seconds=False))

    def claimable(self) -> Q:
        """Return the table for receiving, set up if need be."""
        table = self.usable()
        if not table.complete:
            self.look_again()  # somebody may have completed it meanwhile
            table = self.usable()
        if not table.complete:
            raise AccessDeniedError(
                f'The table "{table.name}" was made by Symfony and can be sent to, but not consumed from: '
                f"{'; '.join(self.lacks())}"
            )
        return table

    def existing(self) -> Q | None:
        """Return the table for looking, or None where there is none; nothing is set up."""
        if self._database.was_replaced():
            self.look_again()
        if self._table is not None:
            return self._table
        layout = self._layout()
        return None if layout is None or layout.foreign else self._make_table(self._options, layout)

    def _layout(self) -> Layout | None:
        if not self._database.exists():
            return None
        return self._database.inspect(lambda engine: layout_of(engine, messages_table(self._options.table_name)))

    def _foreign(self, layout: Layout) -> str:
        return (
            f'The table "{self._options.table_name}" in {self._database} is no table of messages: '
            f"it has no {quoted(layout.foreign)}"
        )
