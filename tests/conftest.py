"""What all tests may ask for: servers, each started when the first test needs it."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from bus.store.renewal import Renewal
from tests.servers.databases import mariadb, mariadb_dsn, own_mariadb, own_postgres, postgres, postgres_dsn
from tests.servers.fixtures import amqp_dsn, own_rabbitmq, own_redis, rabbitmq, redis_keys, redis_url

__all__ = [
    "amqp_dsn",
    "mariadb",
    "mariadb_dsn",
    "own_mariadb",
    "own_postgres",
    "own_rabbitmq",
    "own_redis",
    "postgres",
    "postgres_dsn",
    "rabbitmq",
    "redis_keys",
    "redis_url",
]

# How long one example takes tells how busy the machine is, and nothing of the code.
settings.register_profile("bus", deadline=None)
settings.load_profile("bus")


@pytest.fixture(autouse=True)
def _no_claim_is_renewed_after_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test may leave a claim behind; a thread that renews it would log its errors into the tests that follow."""
    renewals: list[Renewal] = []
    begin = Renewal.__init__

    def remembered(renewal: Renewal, *arguments: Any) -> None:
        begin(renewal, *arguments)
        renewals.append(renewal)

    monkeypatch.setattr(Renewal, "__init__", remembered)
    yield
    for renewal in renewals:
        renewal._leases.clear()
