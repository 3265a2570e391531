"""The published wire of CUDA-Q's real-time calls: headers and payloads (pure).

Sources: NVIDIA/cuda-quantum, ``cudaq_realtime_message_protocol.md`` and ``rpc_wire_format.h``;
NVIDIA/cudaqx, ``decoder_rpc_wire_format.h``. Everything is little-endian and packed; a message
is one datagram. Bits are packed eight to a byte, the least significant first.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CORRECTIONS",
    "ENQUEUE",
    "HEADER_BYTES",
    "MOST_BITS",
    "REQUEST_ID",
    "RESET",
    "SLOT_BYTES",
    "Buffer",
    "Fault",
    "Malformed",
    "Status",
    "answer_head",
    "answer_of",
    "bits_of",
    "bytes_of",
    "call_of",
    "decoder_of",
    "enqueue_of",
    "enqueue_payload",
    "function_id",
    "get_corrections_of",
    "get_corrections_payload",
    "request_bytes",
    "reset_payload",
]

_REQUEST = struct.Struct("<IIIIQ")
# What requests and answers begin with. An answer has id and time of its request at the same place.
_CALL, _ANSWER, _ANSWERED = struct.Struct("<III"), struct.Struct("<IiI"), struct.Struct("<IiII")
_REQUEST_MAGIC, _RESPONSE_MAGIC = 0x43555152, 0x43555153
_ENQUEUE = struct.Struct("<qqqq")
_CORRECTIONS = struct.Struct("<qqB")
_ONE = struct.Struct("<q")

HEADER_BYTES = 24
REQUEST_ID = slice(12, 16)
_ECHOED = slice(12, HEADER_BYTES)  # the id and the timestamp
_BITS = HEADER_BYTES + _ENQUEUE.size
SLOT_BYTES = 256  # of CUDA-Q's server and caller, unless they are told otherwise
MOST_BITS = 1 << 20

Buffer: TypeAlias = bytes | bytearray  # a message in its place; memoryviews cost more than copies


Fault = Literal["short", "foreign", "truncated"]


class Malformed(ValueError):
    """Bytes that are not a message of this wire, or not the payload of its call.

    fault: short: no header fits in; foreign: another magic; truncated: less than the header says, or
    a payload of another form than its call's.
    """

    def __init__(self, reason: str, fault: Fault = "truncated") -> None:
        super().__init__(reason)
        self.fault: Fault = fault


class Status(IntEnum):
    """What a decoding server answers; positive ones belong to its calls."""

    OK = 0
    INVALID_DECODER = 1
    BAD_REQUEST = 2
    INTERNAL_ERROR = 3
    NOT_READY = 4
    BUSY = 5


def function_id(name: str) -> int:
    """Return the 32-bit FNV-1a hash of a function's plain name."""
    found = 2166136261
    for byte in name.encode():
        found = (found ^ byte) * 16777619 % 2**32
    return found


ENQUEUE = function_id("enqueue_syndromes")
CORRECTIONS = function_id("get_corrections")
RESET = function_id("reset_decoder")


def request_bytes(function: int, number: int, payload: bytes, timestamp_ns: int = 0) -> bytes:
    """Return a request as it is sent."""
    head = _REQUEST.pack(_REQUEST_MAGIC, function, len(payload), number, timestamp_ns)
    return head + payload


def call_of(message: Buffer, size: int) -> tuple[int, int]:
    """Return a request's function and the end of its payload. Bytes after that are padding.

    Args:
        message: Place of the datagram, which may be longer than it.
        size: Bytes of the datagram.

    Raises:
        Malformed: Another magic, less than a header, or a length beyond the datagram: lengths are
            not to be believed before that.
    """
    if size < HEADER_BYTES:
        raise Malformed(f"{size} bytes; expected at least {HEADER_BYTES}", "short")
    magic, function, length = _CALL.unpack_from(message)
    if magic != _REQUEST_MAGIC:
        raise Malformed(f"magic {magic:#x}; expected {_REQUEST_MAGIC:#x}", "foreign")
    if length > size - HEADER_BYTES:
        raise Malformed(f"a payload of {length} bytes in a message of {size}", "truncated")
    return function, HEADER_BYTES + length


def answer_head(place: bytearray, message: Buffer, status: int, size: int) -> None:
    """Write the header of the answer to a request, with a result of so many bytes."""
    _ANSWER.pack_into(place, 0, _RESPONSE_MAGIC, status, size)
    place[_ECHOED] = message[_ECHOED]


def answer_of(message: Buffer, size: int) -> tuple[int, int, int]:
    """Return an answer's status, the id of its request and the end of its result.

    See `Status`; negative ones are of the protocol. Arguments and errors are those of `call_of`.
    """
    if size < HEADER_BYTES:
        raise Malformed(f"{size} bytes; expected at least {HEADER_BYTES}", "short")
    magic, status, length, number = _ANSWERED.unpack_from(message)
    if magic != _RESPONSE_MAGIC:
        raise Malformed(f"magic {magic:#x}; expected {_RESPONSE_MAGIC:#x}", "foreign")
    if length > size - HEADER_BYTES:
        raise Malformed(f"a result of {length} bytes in a message of {size}", "truncated")
    return status, number, HEADER_BYTES + length


def enqueue_payload(decoder: int, bits: NDArray[np.uint8], tag: int = 0) -> bytes:
    """Return the payload of ``enqueue_syndromes``. bits: 0 or 1 each."""
    return _ENQUEUE.pack(decoder, tag, 0, len(bits)) + bytes_of(bits)


def enqueue_of(message: Buffer, end: int) -> tuple[int, int]:
    """Read the syndromes of a request: how many, and all of them as the bits of a number.

    Raises `Malformed` for another length, mapping or number of bits.
    """
    packed = end - _BITS
    if packed < 0:
        raise Malformed(f"{end - HEADER_BYTES} bytes; expected at least {_ENQUEUE.size}")
    _, _, mapping, count = _ENQUEUE.unpack_from(message, HEADER_BYTES)
    if mapping != 0 or not 0 < count <= MOST_BITS or packed != (count + 7) >> 3:
        raise Malformed(f"mapping {mapping}, {count} bits in {packed} bytes")
    return count, int.from_bytes(message[_BITS:end], "little") & ((1 << count) - 1)


def get_corrections_payload(decoder: int, observables: int, *, reset: bool) -> bytes:
    """Return the payload of ``get_corrections``."""
    return _CORRECTIONS.pack(decoder, observables, reset)


def get_corrections_of(message: Buffer, end: int) -> tuple[int, bool]:
    """Read a question for corrections: of how many observables, and whether they are cleared then.

    Raises `Malformed` if the payload has another length.
    """
    if end != HEADER_BYTES + _CORRECTIONS.size:
        raise Malformed(f"{end - HEADER_BYTES} bytes; expected {_CORRECTIONS.size}")
    _, observables, reset = _CORRECTIONS.unpack_from(message, HEADER_BYTES)
    return observables, bool(reset)


def reset_payload(decoder: int) -> bytes:
    """Return the payload of ``reset_decoder``."""
    return _ONE.pack(decoder)


def decoder_of(message: Buffer, end: int) -> int:
    """Return the decoder id, which every payload begins with; raise `Malformed` without one."""
    if end < HEADER_BYTES + _ONE.size:
        raise Malformed(f"{end - HEADER_BYTES} bytes; expected at least {_ONE.size}")
    found: int = _ONE.unpack_from(message, HEADER_BYTES)[0]
    return found


def bytes_of(bits: NDArray[np.uint8]) -> bytes:
    """Pack bits, eight to a byte; those unused are zero."""
    return np.packbits(bits, bitorder="little").tobytes()


def bits_of(packed: Buffer, count: int) -> NDArray[np.uint8]:
    """Unpack so many bits."""
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count, bitorder="little")
