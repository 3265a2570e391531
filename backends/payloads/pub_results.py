"""Qiskit's ``PrimitiveResult`` as JSON and frames, without pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, PubResult, SamplerPubResult

from backends.frames import array_from_frame, frame_from_array, json_safe
from backends.tallies import Tally, expand, tally

__all__ = ["pub_results", "pub_results_from_frames", "pub_results_to_frames"]


def pub_results(native: PrimitiveResult[Any]) -> list[Any]:
    """Return the result of each PUB."""
    return list(native)


def pub_results_to_frames(native: PrimitiveResult[Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Return bit and float arrays as typed frames, the rest as JSON.

    Bits of many shots become counts where these are much smaller. Which register's bit came with
    which other's is kept, the order of such shots is not.
    """
    frames: list[bytes] = []
    pubs = []
    for pub in native:
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
    return {"pubs": pubs, "native_metadata": json_safe(native.metadata)}, frames


def pub_results_from_frames(header: Mapping[str, Any], frames: list[bytes]) -> PrimitiveResult[Any]:
    """Rebuild it from `pub_results_to_frames`."""
    pubs = [_pub_result(entry, frames) for entry in header["pubs"]]
    return PrimitiveResult(pubs, metadata=header["native_metadata"])


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
