"""Envelopes as bytes and headers: the encoding of Symfony's JSON serializer, for all transports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec

from bus import headers
from bus.envelope import Envelope
from bus.errors import DecodingError, EncodingError
from bus.messages import MessageTypes, UndecodableMessage, options_of
from bus.stamps import ClaimStamp, Stamp
from bus.wire.nesting import nested_deeper_than
from bus.wire.object_codec import ObjectCodec, codec_for, unreadable, unwritable
from bus.wire.object_shape import NoJsonFormError
from bus.wire.stamp_codec import StampCodec
from bus.wire.stamp_headers import is_plain

# PHP writes an object without properties as a list, and Symfony reads null as one too.
_NO_FIELDS: Final = b"[]"
_EMPTY_OBJECTS: Final = (_NO_FIELDS, b"null")


class EncodedEnvelope(msgspec.Struct, frozen=True):
    """What a transport moves: the bytes of the message and its headers."""

    body: bytes
    headers: Mapping[str, str]


@runtime_checkable
class Serializer(Protocol):
    """Turns envelopes into bytes and headers, and back. Called from any thread."""

    def encode(self, envelope: Envelope, body: bytes | None = None) -> EncodedEnvelope:
        """Encode an envelope. With ``body`` these bytes are kept and only the headers are made.

        A received message keeps the name of its type, too: it may have come under an alias, and other programs that
        read the same queue know it by that.

        The envelope of an UndecodableMessage is written with its bytes and headers as they came, and over them the
        headers of the stamps that it has got since.

        Raises:
            EncodingError: the message or a stamp cannot be written.
        """

    def decode(self, encoded: EncodedEnvelope) -> Envelope:
        """Make the envelope of a known message type.

        Raises:
            DecodingError: and nothing else, whatever the bytes, the headers and the message class do.
        """

    def decode_raw(self, encoded: EncodedEnvelope, reason: str) -> Envelope:
        """Return the envelope of an UndecodableMessage, with every stamp that can still be read. Never raises."""


class JsonSerializer:
    """Symfony's JSON format. Thread-safe.

    Only ``types`` are ever made of what comes in. A body, or one header, is read up to ``max_size`` bytes and
    ``max_depth`` levels of nesting, and no larger or deeper body is written.
    """

    def __init__(
        self,
        types: MessageTypes,
        stamps: Iterable[type[Stamp]] = (),
        *,
        max_size: int = 16 * 1024 * 1024,
        max_depth: int = 128,
    ) -> None:
        self._types = types
        self._stamps = StampCodec(stamps, max_size, max_depth)
        self._max_size = max_size
        self._max_depth = max_depth
        self._codecs: dict[type, tuple[str, ObjectCodec]] = {}
        self._by_name: dict[str, ObjectCodec] = {}

    def encode(self, envelope: Envelope, body: bytes | None = None) -> EncodedEnvelope:
        """Encode an envelope; see ``Serializer``."""
        message = envelope.message
        if type(message) is UndecodableMessage:
            return self._encode_undecodable(message, envelope.stamps)
        name, codec = self._codecs.get(type(message)) or self._writable(type(message))
        if body is None:
            body = self._body_of(message, name, codec)
        else:
            name = _name_it_came_with(envelope) or name
        written = {headers.TYPE: name}
        self._stamps.write(envelope.stamps, written)
        written[headers.CONTENT_TYPE] = headers.JSON
        return EncodedEnvelope(body, written)

    def decode(self, encoded: EncodedEnvelope) -> Envelope:
        """Make the envelope of a known message type; see ``Serializer``."""
        try:
            fields = encoded.headers
            name = fields[headers.TYPE]
            codec = self._by_name.get(name) or self._known(name)
            message = codec.decode(self._checked(encoded.body))
            return Envelope(message, self._stamps.read(fields))
        except BaseException as error:  # noqa: BLE001 - a message class may raise anything, SystemExit included
            raise _refusal(encoded, error) from None

    def decode_raw(self, encoded: EncodedEnvelope, reason: str) -> Envelope:
        """Return the envelope of an UndecodableMessage; see ``Serializer``."""
        fields = _as_fields(encoded.headers)
        message = UndecodableMessage(_as_bytes(encoded.body), fields, reason)
        return Envelope(message, self._stamps.read_what_can_be(fields))

    def _codec_of(self, cls: type) -> tuple[str, ObjectCodec]:
        """Build the codec of a class, once.

        Raises:
            EncodingError: the class has no name on the wire.
            NoJsonFormError: its objects have no JSON form.
        """
        known = self._codecs.get(cls)
        if known is None:
            known = (self._types.name_of(cls), codec_for(cls, options_of(cls).rename))
        return self._codecs.setdefault(cls, known)

    def _writable(self, cls: type) -> tuple[str, ObjectCodec]:
        try:
            return self._codec_of(cls)
        except NoJsonFormError as error:
            raise EncodingError(
                f'The message "{cls.__module__}.{cls.__qualname__}" cannot be written: {error}.'
            ) from error

    def _known(self, name: str) -> ObjectCodec:
        cls = self._types.by_name(name)
        if cls is None:
            raise DecodingError(
                'no message class here has this name; list the module of the class under "imports", or give the class '
                "this name with @message(...)"
            )
        _, codec = self._codec_of(cls)
        return self._by_name.setdefault(name, codec)

    def _body_of(self, message: object, name: str, codec: ObjectCodec) -> bytes:
        try:
            body = codec.encode(message)
        except Exception as error:
            raise EncodingError(f'The message "{name}" cannot be written: {unwritable(message, error)}.') from error
        if len(body) > self._max_size:
            raise EncodingError(
                f'The message "{name}" cannot be written: it has {len(body)} bytes, and {self._max_size} are allowed; '
                "send a reference to the data instead."
            )
        if nested_deeper_than(self._max_depth, body):
            raise EncodingError(
                f'The message "{name}" cannot be written: it is nested deeper than {self._max_depth} levels.'
            )
        return _NO_FIELDS if body == b"{}" else body

    def _checked(self, body: bytes) -> bytes:
        if type(body) is not bytes:
            raise DecodingError("its body is not made of bytes")
        if len(body) > self._max_size:
            raise DecodingError(f"its body has {len(body)} bytes, and {self._max_size} are allowed")
        if nested_deeper_than(self._max_depth, body):
            raise DecodingError(f"its body is nested deeper than {self._max_depth} levels")
        return b"{}" if body in _EMPTY_OBJECTS else body

    def _encode_undecodable(self, message: UndecodableMessage, stamps: Sequence[Stamp]) -> EncodedEnvelope:
        raw = dict(message.headers)
        for name in headers.OF_ONE_DELIVERY:
            raw.pop(name, None)
        written: dict[str, str] = {}
        self._stamps.write(stamps, written)
        for name, value in written.items():
            if name in raw:
                came_with = self._stamps.read_what_can_be({name: raw[name]})
                if self._wrote(came_with).get(name) == value:
                    continue  # nothing was added: it stays byte for byte
                if not came_with:
                    raw[headers.UNREADABLE_PREFIX + name] = raw[name]
            raw[name] = value
        return EncodedEnvelope(message.body, raw)

    def _wrote(self, stamps: Sequence[Stamp]) -> Mapping[str, str]:
        written: dict[str, str] = {}
        self._stamps.write(stamps, written)
        return written


def _name_it_came_with(envelope: Envelope) -> str | None:
    received = envelope.last(ClaimStamp)
    return None if received is None else received.headers.get(headers.TYPE)


def _refusal(encoded: EncodedEnvelope, error: BaseException) -> DecodingError:
    """Say what could not be read, without showing any of it but the name of its type."""
    try:
        name = encoded.headers[headers.TYPE]
    except Exception:  # noqa: BLE001 - headers that are no mapping; what is wrong is said all the same
        return DecodingError(f'The message cannot be read: it has no "{headers.TYPE}" header.')
    if type(name) is not str:
        return DecodingError(f'The message cannot be read: its "{headers.TYPE}" header is no text.')
    shown = name[:100] if is_plain(name[:100]) else ascii(name[:100])
    return DecodingError(f'A message of type "{shown}" cannot be read: {unreadable(error)}.')


def _as_bytes(body: object) -> bytes:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    return _as_text(body).encode("utf-8", "surrogatepass")


def _as_fields(raw: object) -> dict[str, str]:
    if not isinstance(raw, Mapping):
        return {}
    return {_as_text(name): _as_text(value) for name, value in raw.items()}


def _as_text(value: object) -> str:
    if type(value) is str:
        return value
    try:
        return msgspec.json.encode(value).decode()
    except Exception:  # noqa: BLE001 - this must never raise
        return f"({type(value).__name__})"
