"""Generated bodies and headers as they may stand in a table: good ones, broken ones, and those that may be either."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

MARK: Final = "x-generated"  # a header, or a part of one, that says which generated message it was


@dataclass(frozen=True)
class Generated:
    """One row. ``good``: it must be handled; False: it must be stored as failed; None: either, but exactly one.

    ``headers`` is the text of the column. ``fields`` are the headers that it stands for; None: it is no JSON object.
    """

    number: int
    body: bytes
    headers: str
    fields: Mapping[str, str] | None
    good: bool | None


Broken = Callable[[random.Random, int], bytes]
HostileHeaders = Callable[[random.Random, int], Mapping[str, object]]

JOB: Final = {"type": "fault.job", "Content-Type": "application/json"}
MUTANT: Final = {"type": "fault.mutant", "Content-Type": "application/json"}


def _mutant(number: int) -> bytes:
    return json.dumps({"number": number, "text": "m"}).encode()


def _cut(chance: random.Random, number: int) -> bytes:
    body = _mutant(number)
    return body[: chance.randrange(1, len(body) - 1)]


def _wrong_types(chance: random.Random, number: int) -> bytes:
    wrong = chance.choice([None, "x", [], {}, [[1]], True, 1.5, {"number": 1}])
    return json.dumps({"number": wrong, "text": number}).encode()


BODIES: Final[tuple[Broken, ...]] = (
    lambda chance, number: chance.randbytes(chance.randrange(1, 400)) + b"\xff",
    lambda chance, number: b"",
    lambda chance, number: chance.choice([b"null", b"[]", b"1", b'"text"', b"true", b"[1, 2]", b"NaN", b"1e999"]),
    lambda chance, number: b"[" * chance.choice([500, 5_000, 100_000]),
    lambda chance, number: b'{"number": ' * 3_000 + b"1" + b"}" * 3_000,
    lambda chance, number: b'{"number": ' + b"9" * 5_000 + b', "text": "m"}',
    lambda chance, number: b'{"number": 1, "text": "\\ud800"}',
    lambda chance, number: b'{"number": 1, "text": "\xed\xa0\x80"}',
    lambda chance, number: _mutant(number).decode().encode("utf-16"),
    lambda chance, number: _mutant(number) + b"\0" * chance.randrange(1, 5),
    lambda chance, number: b"\0" + _mutant(number),
    lambda chance, number: b"<?php echo 1; ?>\r\n\r\n",
    lambda chance, number: b'O:8:"stdClass":1:{s:1:"a";i:1;}',
    lambda chance, number: b"\x80\x04\x95(cos\nsystem\n(S'true'\ntR.",
    lambda chance, number: b'{"number": 1, "text": "' + b"x" * chance.randrange(100_000) + b'"',
    _cut,
    _wrong_types,
)

TYPES: Final = (
    "os.system",
    "builtins.eval",
    "posixpath.join",
    "this",
    "antigravity.fly",
    "tests.faults.application.do",
    "tests.faults.application",
    "bus.errors.BusError",
    "App\\Unknown\\Message",
    "../../etc/passwd",
    "fault.job\r\nX-Injected: 1",
    "fault.job ",
    "FAULT.JOB",
    "",
    "x" * 5_000,
    "\x1b[2J\x07",
    "fault.\u202ejob",
)

_SYMFONY: Final = "X-Message-Stamp-Symfony\\Component\\Messenger\\Stamp\\"

HEADERS: Final[tuple[HostileHeaders, ...]] = (
    lambda chance, number: {
        f"{_SYMFONY}RedeliveryStamp": chance.choice(["", "{", "[{}]", '[{"retryCount": -1000000000}]'])
    },
    lambda chance, number: {
        f"{_SYMFONY}DelayStamp": chance.choice(["[", "null", '[{"delay": "NaN"}]', '[{"delay": -9223372036854775809}]'])
    },
    lambda chance, number: {f"{_SYMFONY}ErrorDetailsStamp": "[" * 50_000},
    lambda chance, number: {f"{_SYMFONY}BusNameStamp": chance.choice(["[]", "{}", "[1]", '[{"busName": 1}]'])},
    lambda chance, number: {f"X-Message-Stamp-App\\Stamp\\Unknown{number}": "O:1"},
    lambda chance, number: {"X-Bus-Message-Id": chance.choice(["", "\r\nX: 1", "x" * 10_000, "\ud800", "\0"])},
    lambda chance, number: {"X-Bus-Postponed": chance.choice(["-1", "1e9", "9" * 5_000, "[]"])},
    lambda chance, number: {"X-Bus-Deliveries": "1000000"},
    lambda chance, number: {"X-Bus-Origin": "../other", "X-Bus-Partition-Key": "\n"},
    lambda chance, number: {"X-Bus-Wrapped": chance.choice(["1", "", "true", "{"])},
    lambda chance, number: {"X-Bus-Body-Encoding": chance.choice(["base64", "gzip", "base64,base64", ","])},
    lambda chance, number: {"X-Bus-Raw-Headers": "{}", "X-Bus-Unreadable-X-Bus-Message-Id": "?"},
    lambda chance, number: {"traceparent": "00-" + "g" * 300},
    lambda chance, number: {f"h{each}": "v" * 100 for each in range(chance.randrange(400))},
    lambda chance, number: {"list": [1, 2], "number": 1, "null": None, "object": {"a": {"b": []}}},
    lambda chance, number: {"Content-Type": chance.choice(["text/plain", "application/x-python-pickle", ""])},
)

TEXTS: Final = ("", "null", "[1]", "3", '"text"', "{", '{"type": "fault.job"', "a:1:{}", "\x00\x01", "\U0001f4a5")


def good(number: int) -> Generated:
    """Return a message that must be handled."""
    return _generated(number, json.dumps({"number": number}).encode(), JOB, True)


def hostile(chance: random.Random, number: int) -> Generated:
    """Return a message made to break its reader, or a good one with forged headers."""
    kind = chance.random()
    if kind < 0.5:
        return _generated(number, chance.choice(BODIES)(chance, number), MUTANT, False)
    if kind < 0.65:
        return _generated(number, _mutant(number), {**MUTANT, "type": chance.choice(TYPES)}, False)
    if kind < 0.7:
        text = chance.choice(TEXTS) + f" {MARK} {number}"
        return Generated(number, _mutant(number), text, None, False)
    if kind < 0.9:
        return _generated(number, _mutant(number), {**MUTANT, **chance.choice(HEADERS)(chance, number)}, None)
    return _generated(number, _flipped(chance, _mutant(number)), MUTANT, None)


def _flipped(chance: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(chance.randrange(1, 4)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _generated(number: int, body: bytes, fields: Mapping[str, object], is_good: bool | None) -> Generated:
    marked = {**fields, MARK: str(number)}
    # As the driver reads a header that is no text: as its JSON.
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in marked.items()}
    return Generated(number, body, json.dumps(marked), texts, is_good)
