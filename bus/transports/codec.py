"""Between envelopes and the bytes that a driver moves: sizes, original bytes, undecodable and foreign messages."""

from __future__ import annotations

import hashlib
import logging
import uuid
from typing import Any, Final

from bus import identity
from bus.amqp_stamps import AmqpStamp
from bus.envelope import Envelope
from bus.error_details import with_smaller_errors
from bus.errors import DecodingError, SendRefused, describe
from bus.messages import UndecodableMessage
from bus.serializer import EncodedEnvelope, Serializer
from bus.stamps import (
    ClaimStamp,
    DelayStamp,
    MessageIdStamp,
    PartitionKeyStamp,
    PeekedStamp,
    PriorityStamp,
    RandomIdStamp,
    ReceivedStamp,
    RedeliveryStamp,
    Stamp,
    TransportMessageIdStamp,
)
from bus.transports.base import Claim, Delivery, Outgoing, Peeked
from bus.transports.wrapping import HEADER_BUDGET, fits, size_of, unwrap, wrap

logger = logging.getLogger(__name__)

MAX_BODY: Final = 16 * 1024 * 1024


class Codec:
    """Encodes and decodes the messages of one transport. Thread-safe: it keeps no state."""

    def __init__(self, transport_name: str, serializer: Serializer) -> None:
        self._name = transport_name
        self._received = ReceivedStamp(transport_name)
        self.serializer = serializer

    def encode(self, envelope: Envelope) -> Outgoing:
        """Encode a message that begins its way and bears its message id. A negative delay counts as none.

        Raises:
            EncodingError: the message or a stamp cannot be written.
            SendRefused: the body or the headers are too large for any transport.
        """
        encoded = self.serializer.encode(envelope)
        if len(encoded.body) > MAX_BODY:
            raise SendRefused(
                f'The message "{_type_of(envelope)}" is not sent to "{self._name}": its body has {len(encoded.body)} '
                f"bytes, and {MAX_BODY} are allowed; send a reference to the data instead."
            )
        if not fits(encoded.headers):
            largest = max(encoded.headers, key=lambda name: len(encoded.headers[name]))
            raise SendRefused(
                f'The message "{_type_of(envelope)}" is not sent to "{self._name}": its headers have '
                f'{size_of(encoded.headers)} bytes, and {HEADER_BUDGET} are allowed; the largest is "{largest[:100]}". '
                "Move data from stamps into the message."
            )
        return _outgoing(envelope, encoded, None, None)

    def encode_received(
        self, envelope: Envelope, source: Codec, *, delay_ms: int = 0, origin: str | None = None
    ) -> Outgoing:
        """Encode a message that was received through ``source``, to be stored here, with the bytes that it came with.

        It is never refused: what of the error history does not fit into the header budget is left out, the oldest
        first, and headers that are still too large move into the body. A stamp that cannot be written is left out.
        ``delay_ms`` is the delay; a DelayStamp from an earlier send means nothing any more.
        """
        envelope = identified(envelope)
        claim_stamp = envelope.last(ClaimStamp)
        if claim_stamp is None:
            return self.encode(envelope)
        message = envelope.message
        raw = message if isinstance(message, UndecodableMessage) else claim_stamp
        original = EncodedEnvelope(raw.body, raw.headers)
        encoded = self._encode_again(envelope, original, source)
        if not fits(encoded.headers):
            for smaller in with_smaller_errors(envelope):
                encoded = self._encode_again(smaller, original, source)
                if fits(encoded.headers):
                    break
            else:
                encoded = wrap(encoded)
        return _outgoing(envelope, encoded, delay_ms, origin)

    def _encode_again(self, envelope: Envelope, original: EncodedEnvelope, source: Codec) -> EncodedEnvelope:
        try:
            if source.serializer is self.serializer or isinstance(envelope.message, UndecodableMessage):
                return self.serializer.encode(envelope, original.body)
            # Another format: from the bytes, not from the object, which a handler may have changed.
            message = source.serializer.decode(original).message
            return self.serializer.encode(Envelope(message, envelope.stamps))
        except Exception as error:
            logger.exception('The headers of a message for "%s" cannot all be written', self._name)
            return self._encode_what_can_be(envelope, original, describe(error))

    def _encode_what_can_be(self, envelope: Envelope, original: EncodedEnvelope, reason: str) -> EncodedEnvelope:
        written = Envelope(UndecodableMessage(original.body, original.headers, reason))
        encoded = original
        for stamp in envelope.stamps:
            longer = written.with_(stamp)
            try:
                encoded = self.serializer.encode(longer, original.body)
            except Exception:  # noqa: BLE001 - why it cannot was logged; the other stamps are still written
                logger.warning('A "%s" of a message for "%s" cannot be written', type(stamp).__name__, self._name)
            else:
                written = longer
        return encoded

    def decode(self, delivery: Delivery) -> Envelope:
        """Return what was delivered as an envelope; bytes that cannot be read become an UndecodableMessage."""
        encoded = unwrap(delivery.body, delivery.headers)
        return self._as_received(self._decode(encoded), encoded, delivery.claim)

    def leave_undecoded(self, delivery: Delivery, reason: str) -> Envelope:
        """Return what was delivered as an UndecodableMessage, without looking at its body."""
        encoded = unwrap(delivery.body, delivery.headers)
        return self._as_received(self.serializer.decode_raw(encoded, reason), encoded, delivery.claim)

    def decode_peeked(self, peeked: Peeked) -> Envelope:
        """Return a message that was looked at, without a claim."""
        encoded = unwrap(peeked.body, peeked.headers)
        envelope = self._decode(encoded)
        stamps: list[Stamp] = [
            TransportMessageIdStamp(peeked.transport_id),
            PeekedStamp(peeked.state, encoded.body, encoded.headers),
        ]
        if envelope.last(MessageIdStamp) is None:
            stamps.append(self._derived_id(peeked.transport_id, encoded.body))
        return envelope.with_(*stamps)

    def _decode(self, encoded: EncodedEnvelope) -> Envelope:
        try:
            return self.serializer.decode(encoded)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a message class that exits must not end the worker
            reason = str(error) if isinstance(error, DecodingError) else describe(error)
            return self.serializer.decode_raw(encoded, reason)

    def _as_received(self, envelope: Envelope, encoded: EncodedEnvelope, claim: Claim) -> Envelope:
        transport_id = claim.transport_id
        has_message_id = has_transport_id = False
        for stamp in envelope.stamps:
            kind = type(stamp)
            if kind is MessageIdStamp:
                has_message_id = True
            elif kind is TransportMessageIdStamp:
                has_transport_id = stamp.id == transport_id  # type: ignore[attr-defined]
        stamps: list[Stamp] = [self._received, ClaimStamp(claim, encoded.body, encoded.headers)]
        if claim.native is not None:
            stamps.append(claim.native)
        if not has_transport_id:
            stamps.append(TransportMessageIdStamp(transport_id))
        if not has_message_id and claim.has_stable_id:
            stamps.append(self._derived_id(transport_id, encoded.body))
        elif not has_message_id:
            stamps += (MessageIdStamp(identity.uuid7()), RandomIdStamp())
        return Envelope(envelope.message, (*envelope.stamps, *stamps))

    def _derived_id(self, transport_id: str | int, body: bytes) -> MessageIdStamp:
        # The same for every delivery of one copy. The body is part of it because a store that was emptied or made anew
        # may give its ids a second time.
        name = f"{self._name}\0{transport_id}\0".encode("utf-8", "surrogatepass") + body
        digest = hashlib.sha1(name, usedforsecurity=False).digest()
        return MessageIdStamp(str(uuid.UUID(bytes=digest[:16], version=5)))


def identified(envelope: Envelope) -> Envelope:
    """Return the envelope with a message id: its own, or a new one."""
    if envelope.last(MessageIdStamp) is not None:
        return envelope
    return envelope.with_(MessageIdStamp(identity.uuid7()))


def _outgoing(envelope: Envelope, encoded: EncodedEnvelope, delay_ms: int | None, origin: str | None) -> Outgoing:
    last: dict[type[Stamp], Any] = {type(stamp): stamp for stamp in envelope.stamps}
    if delay_ms is None:
        delay_ms = last[DelayStamp].delay if DelayStamp in last else 0
    return Outgoing(
        last[MessageIdStamp].id,
        encoded.body,
        encoded.headers,
        max(0, delay_ms),
        origin,
        last[RedeliveryStamp].retry_count if RedeliveryStamp in last else 0,
        last[PriorityStamp].priority if PriorityStamp in last else 0,
        last[PartitionKeyStamp].key if PartitionKeyStamp in last else None,
        last.get(AmqpStamp),
    )


def _type_of(envelope: Envelope) -> str:
    kind = type(envelope.message)
    return f"{kind.__module__}.{kind.__qualname__}"
