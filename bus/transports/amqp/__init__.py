"""``amqp://`` and ``amqps://``: messages in RabbitMQ, in exchanges and queues that a PHP application can share.

Words: a transport *publishes* to one exchange and *consumes* queues; a *claim* is an unacknowledged delivery; a
*suspect* is a message that was delivered before and not settled. Importing this package imports no client library.
"""
