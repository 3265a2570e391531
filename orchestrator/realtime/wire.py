"""The published wire of CUDA-Q's real-time calls: headers and payloads (pure).

Sources: NVIDIA/cuda-quantum, ``cudaq_realtime_message_protocol.md`` and ``rpc_wire_format.h``;
NVIDIA/cudaqx, ``decoder_rpc_wire_format.h``. Everything is little-endian and packed; a message
is one datagram. Bits are packed eight to a byte, the least significant first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CORRECTIONS",
    "ENQUEUE",
    "HEADER_BYTES",
    "MOST_BITS",
    "RESET",
    "SLOT_BYTES",
    "Enqueue",
    "GetCorrections",
    "Malformed",
    "Request",
    "Response",
    "Status",
    "bits_of",
    "bytes_of",
    "decoder_of",
    "enqueue_of",
    "enqueue_payload",
    "function_id",
    "get_corrections_of",
    "get_corrections_payload",
    "request_bytes",
    "request_of",
    "reset_payload",
    "response_bytes",
    "response_of",
]

_REQUEST = struct.Struct("<IIIIQ")
_RESPONSE = struct.Struct("<IiIIQ")
_REQUEST_MAGIC, _RESPONSE_MAGIC = 0x43555152, 0x43555153
_ENQUEUE = struct.Struct("<qqqq")
_CORRECTIONS = struct.Struct("<qqB")
_ONE = struct.Struct("<q")

HEADER_BYTES = 24
SLOT_BYTES = 256  # of CUDA-Q's server and caller, unless they are told otherwise
MOST_BITS = 1 << 20


class Malformed(ValueError):
    """Bytes that are not a message of this wire."""


class Status(IntEnum):
    """What a decoding server answers; positive ones belong to its calls."""

    OK = 0
    INVALID_DECODER = 1
    BAD_REQUEST = 2
    INTERNAL_ERROR = 3
    NOT_READY = 4


def function_id(name: str) -> int:
    """Return the 32-bit FNV-1a hash of a function's plain name."""
    found = 2166136261
    for byte in name.encode():
        found = (found ^ byte) * 16777619 % 2**32
    return found


ENQUEUE = function_id("enqueue_syndromes")
CORRECTIONS = function_id("get_corrections")
RESET = function_id("reset_decoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call. timestamp_ns: opaque to the server, which echoes it with the id."""

    function: int
    id: int
    timestamp_ns: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer. status: see `Status`; negative ones are of the protocol."""

    status: int
    id: int
    timestamp_ns: int
    result: bytes


def request_bytes(function: int, number: int, payload: bytes, timestamp_ns: int = 0) -> bytes:
    """Return a request as it is sent."""
    head = _REQUEST.pack(_REQUEST_MAGIC, function, len(payload), number, timestamp_ns)
    return head + payload


def request_of(message: bytes, slot_bytes: int = SLOT_BYTES) -> Request:
    """Read a request. Bytes after the payload are padding.

    Raises `Malformed` for another magic, for less than a header, and for a length beyond the
    message or its slot: lengths are not to be believed before that.
    """
    if not HEADER_BYTES <= len(message) <= slot_bytes:
        raise Malformed(f"{len(message)} bytes; expected {HEADER_BYTES} to {slot_bytes}")
    magic, function, size, number, timestamp_ns = _REQUEST.unpack_from(message)
    if magic != _REQUEST_MAGIC:
        raise Malformed(f"magic {magic:#x}; expected {_REQUEST_MAGIC:#x}")
    if size > len(message) - HEADER_BYTES:
        raise Malformed(f"a payload of {size} bytes in a message of {len(message)}")
    payload = message[HEADER_BYTES : HEADER_BYTES + size]
    return Request(function=function, id=number, timestamp_ns=timestamp_ns, payload=payload)


def response_bytes(request: Request, status: int, result: bytes = b"") -> bytes:
    """Return the answer to a request as it is sent."""
    head = _RESPONSE.pack(_RESPONSE_MAGIC, status, len(result), request.id, request.timestamp_ns)
    return head + result


def response_of(message: bytes) -> Response:
    """Read an answer, as `request_of` reads a request."""
    if len(message) < HEADER_BYTES:
        raise Malformed(f"{len(message)} bytes; expected at least {HEADER_BYTES}")
    magic, status, size, number, timestamp_ns = _RESPONSE.unpack_from(message)
    if magic != _RESPONSE_MAGIC:
        raise Malformed(f"magic {magic:#x}; expected {_RESPONSE_MAGIC:#x}")
    if size > len(message) - HEADER_BYTES:
        raise Malformed(f"a result of {size} bytes in a message of {len(message)}")
    result = message[HEADER_BYTES : HEADER_BYTES + size]
    return Response(status=status, id=number, timestamp_ns=timestamp_ns, result=result)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Enqueue:
    """Syndromes of a decoder. tag: the caller's own, as in shot << 16 | round. bits: 0 or 1 each."""

    decoder: int
    tag: int
    bits: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetCorrections:
    """A question for corrections. reset: whether they are cleared after the answer."""

    decoder: int
    observables: int
    reset: bool


def enqueue_payload(decoder: int, bits: NDArray[np.uint8], tag: int = 0) -> bytes:
    """Return the payload of ``enqueue_syndromes``. bits: 0 or 1 each."""
    return _ENQUEUE.pack(decoder, tag, 0, len(bits)) + bytes_of(bits)


def enqueue_of(payload: bytes) -> Enqueue:
    """Read that payload; raise `Malformed` for another length, mapping or number of bits."""
    if len(payload) < _ENQUEUE.size:
        raise Malformed(f"{len(payload)} bytes; expected at least {_ENQUEUE.size}")
    decoder, tag, mapping, count = _ENQUEUE.unpack_from(payload)
    packed = payload[_ENQUEUE.size :]
    if mapping != 0 or not 0 < count <= MOST_BITS or len(packed) != -(-count // 8):
        raise Malformed(f"mapping {mapping}, {count} bits in {len(packed)} bytes")
    return Enqueue(decoder=decoder, tag=tag, bits=bits_of(packed, count))


def get_corrections_payload(decoder: int, observables: int, *, reset: bool) -> bytes:
    """Return the payload of ``get_corrections``."""
    return _CORRECTIONS.pack(decoder, observables, reset)


def get_corrections_of(payload: bytes) -> GetCorrections:
    """Read that payload; raise `Malformed` if it has another length."""
    if len(payload) != _CORRECTIONS.size:
        raise Malformed(f"{len(payload)} bytes; expected {_CORRECTIONS.size}")
    decoder, observables, reset = _CORRECTIONS.unpack(payload)
    return GetCorrections(decoder=decoder, observables=observables, reset=bool(reset))


def reset_payload(decoder: int) -> bytes:
    """Return the payload of ``reset_decoder``."""
    return _ONE.pack(decoder)


def decoder_of(payload: bytes) -> int:
    """Return the decoder id, which every payload begins with; raise `Malformed` without one."""
    if len(payload) < _ONE.size:
        raise Malformed(f"{len(payload)} bytes; expected at least {_ONE.size}")
    found: int = _ONE.unpack_from(payload)[0]
    return found


def bytes_of(bits: NDArray[np.uint8]) -> bytes:
    """Pack bits, eight to a byte; those unused are zero."""
    return np.packbits(bits, bitorder="little").tobytes()


def bits_of(packed: bytes, count: int) -> NDArray[np.uint8]:
    """Unpack so many bits."""
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count, bitorder="little")
