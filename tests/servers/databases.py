"""Fixtures of database servers: one for all tests, with a database for each; or one of a test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.servers import mariadb as mariadb_server
from tests.servers import postgres as postgres_server
from tests.servers.foreign_databases import ForeignMariaDb, ForeignPostgres
from tests.servers.mariadb import MariaDb
from tests.servers.need import need
from tests.servers.postgres import Postgres


@contextmanager
def private_postgres() -> Iterator[Postgres]:
    """Yield a running server that nobody else uses."""
    need(postgres_server.missing())
    with TemporaryDirectory(prefix="bus-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.close()


@contextmanager
def private_mariadb() -> Iterator[MariaDb]:
    """Yield a running server that nobody else uses."""
    need(mariadb_server.missing())
    with TemporaryDirectory(prefix="bus-mariadb-", ignore_cleanup_errors=True) as folder:
        server = MariaDb(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres | ForeignPostgres]:
    """Yield the server that the tests of a session share; yours, if ``BUS_TEST_POSTGRES_DSN`` names one."""
    dsn = os.environ.get("BUS_TEST_POSTGRES_DSN")
    if dsn:
        yield ForeignPostgres(dsn)
        return
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb | ForeignMariaDb]:
    """Yield the server that the tests of a session share; yours, if ``BUS_TEST_MARIADB_DSN`` names one."""
    dsn = os.environ.get("BUS_TEST_MARIADB_DSN")
    if dsn:
        yield ForeignMariaDb(dsn)
        return
    with private_mariadb() as server:
        yield server


@pytest.fixture
def postgres_dsn(postgres: Postgres | ForeignPostgres) -> Iterator[str]:
    """Yield the DSN of an empty database that only this test has."""
    dsn = postgres.make_database()
    yield dsn
    postgres.delete_database(dsn)


@pytest.fixture
def mariadb_dsn(mariadb: MariaDb | ForeignMariaDb) -> Iterator[str]:
    """Yield the DSN of an empty database that only this test has."""
    dsn = mariadb.make_database()
    yield dsn
    mariadb.delete_database(dsn)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """Yield a server of this test's own, to be killed, frozen and cut off."""
    with private_postgres() as server:
        yield server


@pytest.fixture
def own_mariadb() -> Iterator[MariaDb]:
    """Yield a server of this test's own, to be killed, frozen and cut off."""
    with private_mariadb() as server:
        yield server
