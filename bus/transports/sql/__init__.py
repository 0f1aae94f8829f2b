"""``sqlite://``, ``sql://`` and ``doctrine://``: messages in a table that PHP's Doctrine transport can share.

Words: a transport's *queue* is a value of the column ``queue_name``; to *claim* a message is to write a token beside
it; a *lane* is one priority of a queue.
"""

from bus.transports.sql.driver import SqlDriver
from bus.transports.sql.factory import create
from bus.transports.sql.options import SqlOptions
from bus.transports.sql.schema import messages_table

__all__ = ["SqlDriver", "SqlOptions", "create", "messages_table"]
