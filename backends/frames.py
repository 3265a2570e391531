"""A container of typed bytes: one JSON header and the arrays and blobs it refers to."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FrameError", "array_from_frame", "frame_from_array", "json_safe", "pack", "unpack"]

_MAGIC = b"HQC1"
_COUNT = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_SAFE_KINDS = "biufc"


class FrameError(ValueError):
    """The bytes are not a container of this kind, or they are cut short."""


def pack(header: Any, frames: Sequence[bytes] = ()) -> bytes:
    """Join a JSON-compatible header and binary frames; equal inputs give equal bytes."""
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    parts = [_MAGIC, _COUNT.pack(len(frames) + 1)]
    for frame in (head, *frames):
        parts += [_LENGTH.pack(len(frame)), frame]
    return b"".join(parts)


def unpack(data: bytes) -> tuple[Any, list[bytes]]:
    """Split what `pack` joined. Raises `FrameError`; never executes anything it reads."""
    if data[:4] != _MAGIC:
        raise FrameError(f"expected bytes that begin with {_MAGIC!r}, got {data[:4]!r}")
    try:
        (count,) = _COUNT.unpack_from(data, 4)
        position, frames = 8, []
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(data, position)
            position += _LENGTH.size
            if position + length > len(data):
                raise FrameError(f"a frame of {length} bytes is cut short")
            frames.append(data[position : position + length])
            position += length
        if position != len(data):
            raise FrameError(f"{len(data) - position} bytes too many follow the last frame")
        return json.loads(frames[0]), frames[1:]
    except (
        struct.error,
        IndexError,
        json.JSONDecodeError,
        UnicodeDecodeError,
        RecursionError,
    ) as error:
        raise FrameError(f"damaged container of {len(data)} bytes: {error}") from error


def json_safe(value: Any) -> Any:
    """Reduce metadata to JSON types; what has no JSON form becomes its ``str``."""
    if isinstance(value, Mapping):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    numpy = sys.modules.get("numpy")  # the process of a vendor's SDK may be without
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def frame_from_array(array: NDArray[Any]) -> tuple[dict[str, Any], bytes]:
    """Return the header entry (dtype, shape) and the bytes of a numeric array, C order."""
    if array.dtype.kind not in _SAFE_KINDS:
        raise FrameError(f"only numeric arrays travel, got dtype {array.dtype}")
    return {"dtype": array.dtype.str, "shape": list(array.shape)}, array.tobytes()


def array_from_frame(entry: dict[str, Any], frame: bytes) -> NDArray[Any]:
    """Rebuild an array from `frame_from_array`'s entry and bytes. Raises `FrameError`."""
    import numpy as np

    try:
        dtype = np.dtype(entry["dtype"])
        if dtype.kind not in _SAFE_KINDS:
            raise FrameError(f"only numeric arrays travel, got dtype {dtype}")
        return np.frombuffer(frame, dtype=dtype).reshape(entry["shape"]).copy()
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError(f"damaged array frame {entry!r}: {error}") from error
