"""Database servers of yours: tests make databases of their own there, and delete them."""

from __future__ import annotations

import uuid
from contextlib import closing
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql


class ForeignPostgres:
    """``dsn`` names a user that may create databases."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def make_database(self) -> str:
        """Make a new and empty database; return its DSN."""
        name = f"bus_test_{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {name}")
        return urlsplit(self._dsn)._replace(path=f"/{name}").geturl()

    def delete_database(self, dsn: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {urlsplit(dsn).path[1:]} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement.encode())


class ForeignMariaDb:
    """``dsn`` names a user that may create databases."""

    def __init__(self, dsn: str) -> None:
        self._dsn = urlsplit(dsn)

    def make_database(self) -> str:
        """Make a new and empty database; return its DSN."""
        name = f"bus_test_{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return self._dsn._replace(path=f"/{name}").geturl()

    def delete_database(self, dsn: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {urlsplit(dsn).path[1:]}")

    def _execute(self, statement: str) -> None:
        connection = pymysql.connect(
            host=self._dsn.hostname or "127.0.0.1",
            port=self._dsn.port or 3306,
            user=unquote(self._dsn.username or "root"),
            password=unquote(self._dsn.password or ""),
            autocommit=True,
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)
