"""Results as bytes: Qiskit's containers, usage and metadata, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
from backends.tallies import Tally, expand, tally

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
    """Serialise a result: bit and float arrays as typed frames, the rest as JSON.

    Bits of many shots become counts where these are much smaller. Which register's bit came with
    which other's is kept, the order of such shots is not.
    """
    frames: list[bytes] = []
    pubs = []
    for pub in result.native:
        entry = {
            "order": list(pub.data),
            "shape": list(pub.data.shape),
            "sampler": isinstance(pub, SamplerPubResult),
            "metadata": json_safe(pub.metadata),
        }
        counts = _counts_entry(pub, frames)
        if counts is not None:
            entry["counts"] = counts
        else:
            entry["fields"] = {
                name: _field_entry(value, frames) for name, value in pub.data.items()
            }
        pubs.append(entry)
    header = {
        "pubs": pubs,
        "native_metadata": json_safe(result.native.metadata),
        "usage": usage_to_json(result.usage),
        "metadata": json_safe(result.metadata),
    }
    return pack(header, frames)


def _field_entry(value: Any, frames: list[bytes]) -> dict[str, Any]:
    """Add an array's frame; return what the header states of it."""
    if isinstance(value, BitArray):
        entry = {**_array_entry(value.array, frames), "num_bits": value.num_bits}
    else:
        entry = _array_entry(np.asarray(value), frames)
    return entry


def _array_entry(array: NDArray[Any], frames: list[bytes]) -> dict[str, Any]:
    entry, frame = frame_from_array(array)
    entry["frame"] = len(frames)
    frames.append(frame)
    return entry


def _counts_entry(pub: PubResult, frames: list[bytes]) -> dict[str, Any] | None:
    """Add the frames of a sampler PUB's counts, if they are smaller than its bits."""
    registers = list(pub.data.values())
    if not registers or not all(isinstance(value, BitArray) for value in registers):
        return None
    arrays = [value.array for value in registers]
    if len({array.shape[:-1] for array in arrays}) > 1:
        return None
    shots = arrays[0].shape[-2]
    joint = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
    counts = tally(joint.reshape(-1, shots, joint.shape[-1]))
    if counts is None:
        return None
    return {
        "shots": shots,
        "num_bits": [value.num_bits for value in registers],
        "outcomes": _array_entry(counts.outcomes, frames),
        "numbers": _array_entry(counts.numbers, frames),
        "rows": _array_entry(counts.rows, frames),
    }


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
    shape = tuple(entry["shape"])
    fields: dict[str, Any] = {}
    if "counts" in entry:
        fields = _registers(entry["order"], entry["counts"], shape, frames)
    for name in entry["order"] if "fields" in entry else ():
        field = entry["fields"][name]
        array = array_from_frame(field, frames[field["frame"]])
        fields[name] = BitArray(array, field["num_bits"]) if "num_bits" in field else array
    bin_ = DataBin(**fields, shape=shape)
    kind = SamplerPubResult if entry["sampler"] else PubResult
    return kind(bin_, metadata=entry["metadata"])


def _registers(
    names: Sequence[str], entry: Mapping[str, Any], shape: tuple[int, ...], frames: list[bytes]
) -> dict[str, BitArray]:
    """Return a sampler PUB's bit arrays, made of their counts."""
    outcomes, numbers, rows = (
        array_from_frame(entry[key], frames[entry[key]["frame"]])
        for key in ("outcomes", "numbers", "rows")
    )
    bits = expand(Tally(outcomes=outcomes, numbers=numbers, rows=rows), entry["shots"])
    found, first = {}, 0
    for name, num_bits in zip(names, entry["num_bits"], strict=True):
        width = (num_bits + 7) // 8
        array = np.ascontiguousarray(bits[..., first : first + width])
        found[name] = BitArray(array.reshape(*shape, entry["shots"], width), num_bits)
        first += width
    return found
