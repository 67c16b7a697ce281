"""The codes that digests are made of, and those of the scalars: tag, length, payload, so that codes can be joined.

From 255 bytes on a code is tag, 0xff, BLAKE3 of the payload. Tags are one byte.
"""

from __future__ import annotations

import decimal
import fractions
import math
import struct
import uuid
from collections.abc import Callable
from typing import Any

from blake3 import blake3

_INLINE = 255
_SIZES = [b"%c" % size for size in range(_INLINE)]
_STR_HEADS, _INT_HEADS = ([tag + size for size in _SIZES] for tag in (b"s", b"i"))
_NAN = b"f\x03nan"
_double = struct.Struct("<2sd").pack


def pack(tag: bytes, payload: bytes | bytearray) -> bytes:
    """The code of a payload; a large one is not copied."""
    if len(payload) < _INLINE:
        return tag + _SIZES[len(payload)] + payload
    return tag + b"\xff" + blake3(tag).update(payload).digest()


def utf8(text: str) -> bytes:
    """The bytes of a text; half surrogate pairs have some too."""
    return text.encode("utf-8", "surrogatepass")


def str_code(value: str) -> bytes:
    """The code of a text."""
    data = value.encode("utf-8", "surrogatepass")
    return _STR_HEADS[len(data)] + data if len(data) < _INLINE else pack(b"s", data)


def _int(value: int) -> bytes:
    size = (value.bit_length() >> 3) + 1
    data = value.to_bytes(size, "little", signed=True)
    return _INT_HEADS[size] + data if size < _INLINE else pack(b"i", data)


def _float(value: float) -> bytes:
    return _double(b"f\x08", value) if not math.isnan(value) else _NAN


_TRUE, _FALSE, _NONE = pack(b"b", b"1"), pack(b"b", b"0"), pack(b"N", b"")

ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: _NONE,
    bool: lambda value: _TRUE if value else _FALSE,
    int: _int,
    float: _float,
    complex: lambda value: pack(b"c", _float(value.real) + _float(value.imag)),
    str: str_code,
    bytes: lambda value: pack(b"y", value),
    bytearray: lambda value: pack(b"Y", value),
    decimal.Decimal: lambda value: pack(b"D", str(value).encode()),
    fractions.Fraction: lambda value: pack(b"q", _int(value.numerator) + _int(value.denominator)),
    uuid.UUID: lambda value: pack(b"U", value.bytes),  # without is_safe, which tells how it was made
}
"""How scalars are written; these exact types only."""
