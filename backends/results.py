"""Results as bytes: the native result as its payload kind writes it, usage and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from backends.api import Result, Usage
from backends.frames import FrameError, json_safe, pack, unpack
from backends.metering import Charge
from backends.payloads.registry import payload_kind

__all__ = ["result_from_bytes", "result_to_bytes", "usage_from_json", "usage_to_json"]


def usage_to_json(usage: Usage) -> dict[str, Any]:
    """Return the usage as a JSON object."""
    return asdict(usage)


def usage_from_json(data: Mapping[str, Any]) -> Usage:
    """Rebuild a usage from `usage_to_json`."""
    charges = tuple(Charge(**charge) for charge in data["charges"])
    return Usage(**{**data, "charges": charges})


def result_to_bytes(result: Result, kind: str) -> bytes:
    """Serialise the result of a payload of this kind, without pickle."""
    native, frames = payload_kind(kind).pack_result(result.native)
    header = {
        "kind": kind,
        "native": native,
        "usage": usage_to_json(result.usage),
        "metadata": json_safe(result.metadata),
    }
    return pack(header, frames)


def result_from_bytes(data: bytes) -> Result:
    """Rebuild a result from `result_to_bytes`. Raises `FrameError` on damaged bytes."""
    header, frames = unpack(data)
    # Results of before there were other kinds name none; PUBs' results are all read alike.
    kind = payload_kind(header.get("kind", "sampler"))
    try:
        return Result(
            native=kind.unpack_result(header.get("native", header), frames),
            usage=usage_from_json(header["usage"]),
            metadata=header["metadata"],
        )
    except Exception as error:  # a kind may raise anything on damage
        raise FrameError(f"damaged result of {len(data)} bytes: {error}") from error
