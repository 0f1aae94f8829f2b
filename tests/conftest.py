"""What all tests may ask for: servers, each started when the first test needs it."""

from hypothesis import settings

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
