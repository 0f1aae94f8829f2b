"""How deep a JSON text is nested, found out without parsing it: parsers recurse."""

from __future__ import annotations

from typing import Final

_OPEN: Final = ord("[")
_STRUCTURE: Final = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{}"'))


def nested_deeper_than(limit: int, text: bytes | str) -> bool:
    """Tell whether arrays and objects stand deeper inside each other than ``limit``. Linear in time.

    Of text that is no JSON the answer holds up to the first fault, where a parser stops.
    """
    if isinstance(text, str):
        if text.count("[") + text.count("{") <= limit:
            return False
        text = text.encode("utf-8", "replace")
    elif text.count(b"[") + text.count(b"{") <= limit:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = 0
    # Every second piece between quotation marks is the inside of a string.
    for piece in text.translate(_STRUCTURE, _NO_STRUCTURE).split(b'"')[::2]:
        for byte in piece:
            if byte == _OPEN:
                depth += 1
                if depth > limit:
                    return True
            else:
                depth -= 1
    return False
