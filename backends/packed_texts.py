"""How much the compressed texts of a JSON document unpack to, before anybody unpacks them.

Vendors' formats hold arrays as base64 of zlib, and their decoders unpack whatever they are given: of a
text of a mebibyte, a faulty server can have them make a gibibyte.
"""

from __future__ import annotations

import binascii
import json
import zlib
from collections.abc import Iterator
from typing import Any

__all__ = ["TooMuchPacked", "check_packed"]

# The most that zlib's format can make of a byte.
_FACTOR = 1032
_DEFLATE = 8
_PIECE_BYTES = 1 << 20


class TooMuchPacked(ValueError):
    """A document would take more memory than it may."""


def check_packed(text: str, most_bytes: int) -> None:
    """Raise `TooMuchPacked` if the texts of a document unpack to more bytes than that in all.

    Args:
        text: JSON. Other text, and what is no base64 of zlib, is for its decoder to refuse.
        most_bytes: That may come out of them.
    """
    if len(text) * 3 // 4 * _FACTOR <= most_bytes:
        return
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    left = most_bytes
    for packed in _texts(document):
        left -= _unpacked_bytes(packed, left)
        if left < 0:
            raise TooMuchPacked(f"its arrays unpack to more than {most_bytes} bytes")


def _texts(document: Any) -> Iterator[str]:
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _unpacked_bytes(text: str, most_bytes: int) -> int:
    """Return how many bytes a text unpacks to, 0 if it is not packed; stops counting beyond most."""
    try:
        rest = binascii.a2b_base64(text)
    except ValueError:
        return 0
    if len(rest) < 2 or rest[0] & 15 != _DEFLATE or (rest[0] << 8 | rest[1]) % 31:
        return 0  # no header of zlib
    unpacker, found = zlib.decompressobj(), 0
    try:
        while rest and found <= most_bytes:
            found += len(unpacker.decompress(rest, _PIECE_BYTES))
            rest = unpacker.unconsumed_tail
    except zlib.error:
        return found
    return found
