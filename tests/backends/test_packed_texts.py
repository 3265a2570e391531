"""Compressed texts of JSON are measured before a vendor's decoder unpacks them."""

from __future__ import annotations

import base64
import json
import os
import tracemalloc
import zlib

import pytest

from backends.packed_texts import TooMuchPacked, check_packed

MIB = 1 << 20


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


BOMB = packed(bytes(64 * MIB))


@pytest.mark.parametrize(
    "document",
    [
        {"data": [{"results": {"c": {"data": BOMB, "dtype": "bool"}}}]},
        [packed(bytes(MIB))] * 9,  # each of which alone is allowed
        {"__type__": "ndarray", "__value__": BOMB},
    ],
)
def test_more_than_may_be_is_refused_without_being_unpacked(document) -> None:
    text = json.dumps(document)
    tracemalloc.start()
    try:
        with pytest.raises(TooMuchPacked, match=str(8 * MIB)):
            check_packed(text, 8 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([packed(bytes(MIB))] * 7),
        json.dumps([packed(os.urandom(MIB)), "x" * MIB, "eJ" + "A" * MIB]),  # some is no zlib
        json.dumps([BOMB[: len(BOMB) // 20]]),  # a stream without its end
        "[" * 100_000 + BOMB,  # for the decoder to refuse
        "garbage " * MIB,
    ],
)
def test_what_fits_or_is_not_packed_is_left_to_the_decoder(text: str) -> None:
    check_packed(text, 8 * MIB)
