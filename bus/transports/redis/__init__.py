"""``redis://`` and ``rediss://``: messages in Redis streams that PHP's Redis transport can share.

Words: an *entry* of a *stream* is a message; a *group* has each entry once, and keeps a list of its *pending* ones:
those that a *consumer*, one worker process, was given and has not acknowledged. A *lane* is a stream with the sorted
set of its delayed messages; a group reads several.
"""

from bus.transports.redis.driver import RedisDriver, create
from bus.transports.redis.options import RedisOptions

__all__ = ["RedisDriver", "RedisOptions", "create"]
