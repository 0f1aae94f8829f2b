"""The header names that serializer, settlement and drivers share. No other file spells one out."""

from __future__ import annotations

from typing import Final

TYPE: Final = "type"
CONTENT_TYPE: Final = "Content-Type"
JSON: Final = "application/json"

# Symfony writes one header per stamp class: this prefix and the PHP class name.
STAMP_PREFIX: Final = "X-Message-Stamp-"
SYMFONY_STAMPS: Final = "Symfony\\Component\\Messenger\\Stamp\\"

# Symfony fails on a stamp class it does not know, so what is ours travels in plain headers.
BUS_PREFIX: Final = "X-Bus-"
MESSAGE_ID: Final = "X-Bus-Message-Id"
CORRELATION_ID: Final = "X-Bus-Correlation-Id"
CAUSATION_ID: Final = "X-Bus-Causation-Id"
PARTITION_KEY: Final = "X-Bus-Partition-Key"
PRIORITY: Final = "X-Bus-Priority"
DEDUPLICATE: Final = "X-Bus-Deduplicate"
ORIGIN: Final = "X-Bus-Origin"
POSTPONED: Final = "X-Bus-Postponed"
DELIVERIES: Final = "X-Bus-Deliveries"
DELAY_REST: Final = "X-Bus-Delay-Rest"
WRAPPED: Final = "X-Bus-Wrapped"
# In the rows of an outbox only: how a transport is to send the message.
AMQP: Final = "X-Bus-Amqp"
BODY_ENCODING: Final = "X-Bus-Body-Encoding"
RAW_HEADERS: Final = "X-Bus-Raw-Headers"
USER_STAMP_PREFIX: Final = "X-Bus-Stamp-"
# Before the name of a header that could not be read and in whose place another one was written.
UNREADABLE_PREFIX: Final = "X-Bus-Unreadable-"
TRACEPARENT: Final = "traceparent"
RETRY_COUNT: Final = "x-retry-count"

# Facts of one delivery: a driver writes and reads them, and nothing takes them on to the next one.
OF_ONE_DELIVERY: Final = (DELIVERIES, DELAY_REST, RETRY_COUNT)
