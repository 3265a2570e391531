"""Results as bytes: Qiskit's containers, usage and metadata, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from qiskit.primitives import (
    BitArray,
    DataBin,
    PrimitiveResult,
    PubResult,
    SamplerPubResult,
)

from backends.api import Result, Usage
from backends.frames import FrameError, array_from_frame, frame_from_array, pack, unpack
from backends.metering import Charge

__all__ = ["json_safe", "result_from_bytes", "result_to_bytes", "usage_from_json", "usage_to_json"]


def json_safe(value: Any) -> Any:
    """Reduce metadata to JSON types; what has no JSON form becomes its ``str``."""
    if isinstance(value, Mapping):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def usage_to_json(usage: Usage) -> dict[str, Any]:
    """Return the usage as a JSON object."""
    return asdict(usage)


def usage_from_json(data: Mapping[str, Any]) -> Usage:
    """Rebuild a usage from `usage_to_json`."""
    charges = tuple(Charge(**charge) for charge in data["charges"])
    return Usage(**{**data, "charges": charges})


def result_to_bytes(result: Result) -> bytes:
    """Serialise a result: bit and float arrays as typed frames, the rest as JSON."""
    frames: list[bytes] = []
    pubs = []
    for pub in result.native:
        fields = {}
        for name, value in pub.data.items():
            if isinstance(value, BitArray):
                entry, frame = frame_from_array(value.array)
                entry["num_bits"] = value.num_bits
            else:
                entry, frame = frame_from_array(np.asarray(value))
            entry["frame"] = len(frames)
            frames.append(frame)
            fields[name] = entry
        pubs.append(
            {
                "fields": fields,
                "order": list(fields),
                "shape": list(pub.data.shape),
                "sampler": isinstance(pub, SamplerPubResult),
                "metadata": json_safe(pub.metadata),
            }
        )
    header = {
        "pubs": pubs,
        "native_metadata": json_safe(result.native.metadata),
        "usage": usage_to_json(result.usage),
        "metadata": json_safe(result.metadata),
    }
    return pack(header, frames)


def result_from_bytes(data: bytes) -> Result:
    """Rebuild a result from `result_to_bytes`. Raises `FrameError` on damaged bytes."""
    header, frames = unpack(data)
    try:
        pubs = [_pub_result(entry, frames) for entry in header["pubs"]]
        return Result(
            native=PrimitiveResult(pubs, metadata=header["native_metadata"]),
            usage=usage_from_json(header["usage"]),
            metadata=header["metadata"],
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FrameError(f"damaged result of {len(data)} bytes: {error}") from error


def _pub_result(entry: Mapping[str, Any], frames: list[bytes]) -> PubResult:
    fields: dict[str, Any] = {}
    for name in entry["order"]:
        field = entry["fields"][name]
        array = array_from_frame(field, frames[field["frame"]])
        fields[name] = BitArray(array, field["num_bits"]) if "num_bits" in field else array
    bin_ = DataBin(**fields, shape=tuple(entry["shape"]))
    kind = SamplerPubResult if entry["sampler"] else PubResult
    return kind(bin_, metadata=entry["metadata"])
