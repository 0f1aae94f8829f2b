"""What all tests may ask for: servers, each started when the first test needs it."""

from tests.servers.fixtures import amqp_dsn, own_rabbitmq, own_redis, rabbitmq, redis_keys, redis_url

__all__ = ["amqp_dsn", "own_rabbitmq", "own_redis", "rabbitmq", "redis_keys", "redis_url"]
