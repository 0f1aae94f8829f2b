"""The table of messages: Symfony's columns, ours beside them, and what an existing table still lacks."""

# ruff: noqa: S608 - names of tables are checked, plain ones

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

SYMFONY_COLUMNS: Final = ("id", "body", "headers", "queue_name", "created_at", "available_at", "delivered_at")
OUR_COLUMNS: Final = ("lane", "deliveries", "claim_token", "message_id")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table in a database has.

    ``whole_seconds``: it was made by Symfony, and times in it have no fraction.
    """

    columns: frozenset[str]
    has_index: bool
    whole_seconds: bool

    @property
    def complete(self) -> bool:
        """Whether messages can be claimed from it."""
        return self.columns.issuperset(OUR_COLUMNS)

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return self.complete and self.has_index

    @property
    def foreign(self) -> tuple[str, ...]:
        """The columns that every table of messages has and this one lacks: it is something else."""
        return tuple(name for name in SYMFONY_COLUMNS if name not in self.columns)


def messages_table(name: str) -> Table:
    """Return the table as this package makes it.

    Times are UTC, of millisecond precision; texts in SQLite. The columns of ours have defaults, because Symfony's
    INSERT names its own columns only.
    """
    long_text = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
    time = (
        String(23)
        .with_variant(postgresql.TIMESTAMP(precision=3), "postgresql")
        .with_variant(mysql.DATETIME(fsp=3), "mysql", "mariadb")
    )
    # Names are not the same if only some of their letters are.
    queue_name = String(190).with_variant(mysql.VARCHAR(190, collation="utf8mb4_bin"), "mysql", "mariadb")
    table = Table(
        name,
        MetaData(),
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("body", long_text, nullable=False),
        Column("headers", long_text, nullable=False),
        Column("queue_name", queue_name, nullable=False),
        Column("created_at", time, nullable=False),
        Column("available_at", time, nullable=False),
        Column("delivered_at", time),
        Column("lane", Integer, server_default=text("0")),
        Column("deliveries", Integer, server_default=text("0")),
        Column("claim_token", String(64)),
        Column("message_id", String(255)),
        sqlite_autoincrement=True,
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    # Claimable messages are one range of this index, in the order of their delivery.
    Index(f"{name}_claim", table.c.queue_name, table.c.lane, table.c.available_at, table.c.id)
    return table


def claim_index(table: Table) -> Index:
    """Return the index that claiming needs."""
    (index,) = table.indexes
    return index


def layout_of(engine: Engine, table: Table) -> Layout | None:
    """Look at the table in the database; None when there is none. Opens a connection of its own."""
    inspector = inspect(engine)
    if not inspector.has_table(table.name):
        return None
    columns = {column["name"]: column["type"] for column in inspector.get_columns(table.name)}
    indexes = {index["name"] for index in inspector.get_indexes(table.name)}
    return Layout(
        columns=frozenset(columns),
        has_index=claim_index(table).name in indexes,
        whole_seconds=_has_whole_seconds(columns.get("available_at")),
    )


def _has_whole_seconds(kind: object) -> bool:
    """Tell the type of Symfony's times, which have no fraction."""
    precision = getattr(kind, "precision", None) or getattr(kind, "fsp", None)
    return isinstance(kind, DateTime) and not precision


def statements_to_set_up(table: Table, layout: Layout | None, dialect: Dialect) -> Sequence[str]:
    """Return the DDL that makes the table complete; empty when it is."""
    if layout is None:
        create = str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip()
        return [create, _create_index(table, dialect)]
    name = dialect.identifier_preparer.format_table(table)
    statements = [
        f"ALTER TABLE {name} ADD COLUMN {CreateColumn(table.c[column]).compile(dialect=dialect)}"
        for column in OUR_COLUMNS
        if column not in layout.columns
    ]
    return statements if layout.has_index else [*statements, _create_index(table, dialect)]


def _create_index(table: Table, dialect: Dialect) -> str:
    return str(CreateIndex(claim_index(table), if_not_exists=dialect.name != "mysql").compile(dialect=dialect))


def table_exists(name: str, dialect: Dialect) -> str:
    """Return the query that has a row if there is a table of this plain name."""
    return {
        "sqlite": f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{name}'",
        "postgresql": f"SELECT 1 WHERE to_regclass('{name}') IS NOT NULL",
    }.get(
        dialect.name,
        f"SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{name}'",
    )
