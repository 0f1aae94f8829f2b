"""The objects of one class as JSON: pydantic models by pydantic; dataclasses, attrs classes and Structs by msgspec."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from bus.errors import DecodingError, EncodingError, describe
from bus.wire.object_shape import NoJsonFormError, Rename, Shape, ShapeBuilder, is_pydantic, walk

_JSON = msgspec.json.Decoder()
_CAN_CARRY = (
    "JSON carries dataclasses, attrs classes, msgspec Structs, pydantic models, str, int, float, bool, None, lists, "
    "tuples, sets, dicts, datetime, date, time, timedelta, Decimal, UUID, bytes and enums"
)


class ObjectCodec(Protocol):
    """Writes and reads the objects of one class. Thread-safe; built once per class.

    Both directions raise what the libraries and the class itself raise, which may be anything; ``unwritable`` and
    ``unreadable`` put it into words.
    """

    def encode(self, value: Any) -> bytes:
        """Return the object as JSON."""

    def decode(self, text: bytes) -> Any:
        """Return an object of the class, made of JSON. An empty PHP object (``[]``) counts as ``{}``."""

    def from_builtins(self, value: Any) -> Any:
        """Return an object of the class, made of what a JSON parser returns."""


def codec_for(cls: type, rename: Rename = None) -> ObjectCodec:
    """Build the codec of a class. With ``rename`` the JSON keys are in camelCase.

    Raises:
        NoJsonFormError: objects of this class, or of an annotation in it, have no JSON form.
    """
    if is_pydantic(cls):
        return _PydanticCodec(cls, rename)
    if not (dataclasses.is_dataclass(cls) or issubclass(cls, msgspec.Struct) or "__attrs_attrs__" in vars(cls)):
        raise NoJsonFormError("it is neither a dataclass nor a msgspec Struct, attrs class or pydantic model")
    return _MsgspecCodec(cls) if rename is None else _RenamingCodec(cls, rename)


class _MsgspecCodec:
    """Keys as the fields are named: all work is done by msgspec."""

    __slots__ = ("_cls", "_decode", "_encode", "_may_hold_nan", "_reading")

    def __init__(self, cls: type, rename: Rename = None) -> None:
        shapes = ShapeBuilder(rename, writing=False)
        self._cls = cls
        self._reading: Shape = shapes.of(cls)
        self._may_hold_nan = shapes.may_hold_nan
        self._encode = msgspec.json.Encoder(enc_hook=_to_builtins).encode
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(cls, dec_hook=_from_builtins).decode

    def encode(self, value: Any) -> bytes:
        text = self._encode(value)
        if self._may_hold_nan and b"null" in text:
            _refuse_nan(value)
        return text

    def decode(self, text: bytes) -> Any:
        try:
            return self._decode(text)
        except msgspec.ValidationError as error:
            if error.__cause__ is not None or b"[" not in text:
                raise
        return self.from_builtins(_JSON.decode(text))

    def from_builtins(self, value: Any) -> Any:
        return msgspec.convert(walk(value, self._reading), self._cls, dec_hook=_from_builtins, str_keys=True)


class _RenamingCodec(_MsgspecCodec):
    """Keys in another style, for classes whose library cannot rename: by way of dicts."""

    __slots__ = ("_writing",)

    def __init__(self, cls: type, rename: Rename) -> None:
        super().__init__(cls, rename)
        self._writing = ShapeBuilder(rename, writing=True).of(cls)

    def encode(self, value: Any) -> bytes:
        fields = msgspec.to_builtins(value, str_keys=True, enc_hook=_to_builtins)
        text = self._encode(walk(fields, self._writing))
        if self._may_hold_nan and b"null" in text:
            _refuse_nan(value)
        return text

    def decode(self, text: bytes) -> Any:
        return self.from_builtins(_JSON.decode(text))


class _PydanticCodec:
    """A pydantic model or pydantic dataclass: aliases, validators and serializers are pydantic's."""

    __slots__ = ("_adapter", "_field_names", "_reading", "_rename", "_writing")

    def __init__(self, cls: type, rename: Rename) -> None:
        self._adapter = _pydantic_adapter(cls)
        self._rename = rename
        self._reading = ShapeBuilder(rename, writing=False).of(cls)
        self._writing = ShapeBuilder(rename, writing=True).of(cls)
        self._field_names = frozenset(_field_names(cls))

    def encode(self, value: Any) -> bytes:
        if self._rename is None:
            text: bytes = self._adapter.dump_json(value, by_alias=True)
        else:
            fields = self._adapter.dump_python(value, mode="json", by_alias=True)
            text = msgspec.json.encode(walk(fields, self._writing))
        if b"null" in text:
            _refuse_nan(value)
        return text

    def decode(self, text: bytes) -> Any:
        fields = _JSON.decode(text)  # pydantic's parser would let NaN, Infinity and 1e999 pass
        if self._rename is not None:
            return self.from_builtins(fields)
        try:
            return self._adapter.validate_json(text)
        except ValueError as error:
            if walk(fields, self._reading) == fields:
                raise self._refusal(error) from None
        return self.from_builtins(fields)

    def from_builtins(self, value: Any) -> Any:
        # By way of JSON, because a strict model takes text for a date from JSON only.
        try:
            return self._adapter.validate_json(msgspec.json.encode(walk(value, self._reading)))
        except ValueError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Any) -> msgspec.ValidationError:
        """Name what pydantic refuses by its kind and field only: its own text shows the value."""
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = first["loc"][0] if first["loc"] else None
        where = f" - at `$.{place}`" if place in self._field_names else ""
        return msgspec.ValidationError(f"pydantic says {first['type']}{where}")


def _new_pydantic_adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


_pydantic_adapter: Callable[[Any], Any] = functools.lru_cache(maxsize=256)(_new_pydantic_adapter)


def _to_builtins(value: Any) -> Any:
    """Write what msgspec does not know: a pydantic model inside another class."""
    if is_pydantic(type(value)):
        return _pydantic_adapter(type(value)).dump_python(value, mode="json", by_alias=True)
    raise TypeError(f'"{type(value).__qualname__}" has no JSON form')


def _from_builtins(cls: type, value: Any) -> Any:
    if is_pydantic(cls):
        return _pydantic_adapter(cls).validate_json(msgspec.json.encode(value))
    return value


def _refuse_nan(value: Any, path: str = "") -> None:
    """Raise for a float that JSON cannot carry; the libraries write null in its place."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EncodingError(f'the field "{path}" is {value}, which JSON cannot carry')
        return
    for name, part in _parts(value):
        _refuse_nan(part, path + name if name.startswith("[") or not path else f"{path}.{name}")


def unwritable(value: object, error: BaseException) -> str:
    """Say why an object cannot be written, with the path of the field at fault where it can be found."""
    if isinstance(error, EncodingError | NoJsonFormError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or contains itself"
    path, part = _culprit(value, "")
    where = f'the field "{path}"' if path else "it"
    if isinstance(error, UnicodeEncodeError):
        return f"{where} holds text with a lone surrogate, which UTF-8 cannot carry"
    if part is value or isinstance(part, str | int | float):
        return describe(error, 200)
    return f'{where} holds a "{type(part).__qualname__}"; {_CAN_CARRY}'


def _culprit(value: object, path: str) -> tuple[str, object]:
    for name, part in _parts(value):
        try:
            msgspec.json.encode(part, enc_hook=_to_builtins)
        except Exception:  # noqa: BLE001 - whatever keeps it from being written, this is the place
            return _culprit(part, path + name if name.startswith("[") or not path else f"{path}.{name}")
    return path, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{str(key)[:40]!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{position}]", each) for position, each in enumerate(value))
    else:
        yield from ((name, getattr(value, name)) for name in _field_names(type(value)) if hasattr(value, name))


def _field_names(cls: Any) -> Iterator[str]:
    if is_pydantic(cls):
        yield from cls.__pydantic_fields__
    elif issubclass(cls, msgspec.Struct):
        yield from cls.__struct_fields__
    elif dataclasses.is_dataclass(cls):
        yield from (each.name for each in dataclasses.fields(cls))
    else:
        yield from (each.name for each in getattr(cls, "__attrs_attrs__", ()))


def unreadable(error: BaseException) -> str:
    """Say why JSON was refused, without showing any of it."""
    if isinstance(error, DecodingError | NoJsonFormError | EncodingError):
        return str(error)
    if isinstance(error, msgspec.ValidationError):
        return _refused_by_type(error)
    if isinstance(error, msgspec.DecodeError):
        return str(error)
    if isinstance(error, UnicodeError):
        return "the text is not valid UTF-8"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    return f"its class raised {type(error).__name__}"


def _refused_by_type(error: msgspec.ValidationError) -> str:
    text = str(error)
    if error.__cause__ is not None:
        return f"its class raised {type(error.__cause__).__name__}"
    if text.startswith("Object contains unknown field"):
        return "the object contains a field that its class does not have"
    if text.startswith(("Invalid enum value", "Invalid value")):
        at = text.rfind(" - at `$")
        return "a value is none of those that its type allows" + (text[at:] if at >= 0 else "")
    return text
