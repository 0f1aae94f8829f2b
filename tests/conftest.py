"""What all tests may ask for: servers, each started when the first test needs it."""

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
