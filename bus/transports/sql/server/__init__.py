"""SQL databases that are servers: claims are leases by the server's clock, kept alive by heartbeats.

Words: a *lease* is the time that stands in ``available_at`` while a message is held, 15 s ahead and renewed each 5 s; a
worker that dies renews no more, and the message is claimable again.
"""
