"""The private database servers do what the tests of faults need of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psycopg
import pymysql
import pytest

from tests.servers.databases import private_mariadb, private_postgres
from tests.servers.mariadb import MariaDb
from tests.servers.postgres import Postgres


@pytest.fixture(scope="module")
def a_postgres() -> Iterator[Postgres]:
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def a_mariadb() -> Iterator[MariaDb]:
    with private_mariadb() as server:
        yield server


def test_postgres_keeps_what_was_committed_when_it_is_killed(a_postgres: Postgres) -> None:
    a_postgres.execute("CREATE TABLE kept AS SELECT 1 AS number")

    a_postgres.kill()
    a_postgres.start()

    assert a_postgres.execute("SELECT number FROM kept") == [(1,)]


def test_mariadb_keeps_what_was_committed_when_it_is_killed(a_mariadb: MariaDb) -> None:
    a_mariadb.execute("CREATE TABLE mysql.kept (number INTEGER) ENGINE=InnoDB")
    a_mariadb.execute("INSERT INTO mysql.kept VALUES (1)")

    a_mariadb.kill()
    a_mariadb.start()

    assert a_mariadb.execute("SELECT number FROM mysql.kept") == [(1,)]


def test_postgres_cuts_its_connections(a_postgres: Postgres) -> None:
    with a_postgres.connect() as connection:
        assert a_postgres.terminate_backends() == 1
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_mariadb_cuts_its_connections(a_mariadb: MariaDb) -> None:
    connection = a_mariadb.connect()
    assert a_mariadb.terminate_backends() == 1
    with pytest.raises(pymysql.err.OperationalError):
        connection.query("SELECT 1")


def test_postgres_can_refuse_to_write(a_postgres: Postgres) -> None:
    with a_postgres.read_only(), pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        a_postgres.execute("CREATE TABLE refused (number integer)")
    a_postgres.execute("CREATE TABLE accepted (number integer)")


def test_a_database_is_this_tests_own(postgres_dsn: str, mariadb_dsn: str) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    assert mariadb_dsn.startswith("mariadb://")


def test_a_server_ends_with_its_guard(a_postgres: Postgres) -> None:
    with private_postgres() as server:
        pid = server._running.pid
        os.kill(pid, signal.SIGCONT)  # it is there
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
