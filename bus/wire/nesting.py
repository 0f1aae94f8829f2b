"""How deep a JSON text is nested, found out without parsing it: parsers recurse."""

from __future__ import annotations

from typing import Final

_OPEN: Final = ord("[")
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_PASSES: Final = 8


def nested_deeper_than(limit: int, text: bytes | str) -> bool:
    """Tell whether arrays and objects stand deeper inside each other than ``limit``. Linear in time.

    Text that is no JSON may be called too deep; a parser that stops at its first fault never gets deeper than what is
    not.
    """
    if len(text) <= limit:
        return False
    if isinstance(text, str):
        text = text.encode("utf-8", "replace")
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Every second piece between quotation marks is the inside of a string.
    brackets = b"".join(text.translate(_BRACKETS, _NO_BRACKETS).split(b'"')[::2])
    # Wide and shallow is what large messages are: taking off the innermost level, all over, is fast.
    for level in range(limit):
        if len(brackets) <= limit - level:
            return False
        if level == _PASSES:
            return _climbs_above(limit - level, brackets)
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _climbs_above(limit: int, brackets: bytes) -> bool:
    depth = 0
    for byte in brackets:
        depth += 1 if byte == _OPEN else -1
        if depth > limit:
            return True
    return False
