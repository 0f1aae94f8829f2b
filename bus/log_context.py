"""What every log line about a message bears in its ``extra``."""

from __future__ import annotations

from bus.envelope import Envelope
from bus.stamps import MessageIdStamp, RedeliveryStamp


def message_id_of(envelope: Envelope) -> str:
    """Return the message's id, or ``unknown``."""
    stamp = envelope.last(MessageIdStamp)
    return stamp.id if stamp is not None else "unknown"


def log_context(envelope: Envelope, transport_name: str) -> dict[str, object]:
    """Return message id, transport and attempt; the first attempt is 0, as Symfony counts retries."""
    redelivery = envelope.last(RedeliveryStamp)
    return {
        "message_id": message_id_of(envelope),
        "transport": transport_name,
        "attempt": redelivery.retry_count if redelivery is not None else 0,
    }
