"""Devices' jobs and results as JSON and typed bytes."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from backends.devices.api import FlatJob, FlatPub, FlatResult, PlainPayload, PlainResult

__all__ = [
    "job_from_frames",
    "job_to_frames",
    "payload_from_frames",
    "payload_to_frames",
    "plain_result_from_frames",
    "plain_result_to_frames",
    "result_from_json",
    "result_to_json",
]

_OF_PAYLOAD = ("kind", "circuits", "shots", "num_qubits")


def job_to_frames(job: FlatJob) -> tuple[dict[str, Any], list[bytes]]:
    """Return a job as JSON types and one frame of angles (float64, little endian) for each PUB."""
    entries = [
        {
            "num_qubits": pub.num_qubits,
            "num_clbits": pub.num_clbits,
            "steps": pub.steps,
            "points": len(pub.angles),
            "shots": pub.shots,
            "seed": pub.seed,
        }
        for pub in job.pubs
    ]
    header = {"pubs": entries, "layouts": list(job.layouts)}
    return header, [b"".join(map(_little, pub.angles)) for pub in job.pubs]


def job_from_frames(header: Mapping[str, Any], frames: Sequence[bytes]) -> FlatJob:
    """Rebuild a job from `job_to_frames`."""
    return FlatJob(
        pubs=tuple(_pub(entry, frame) for entry, frame in zip(header["pubs"], frames, strict=True)),
        layouts=tuple(header["layouts"]),
    )


def result_to_json(result: FlatResult) -> dict[str, Any]:
    """Return a result as JSON types."""
    return {
        "counts": [[dict(point) for point in pub] for pub in result.counts],
        "qpu_seconds": result.qpu_seconds,
        "metadata": dict(result.metadata),
        "layouts": list(result.layouts),
    }


def result_from_json(stated: Mapping[str, Any]) -> FlatResult:
    """Rebuild a result from `result_to_json`."""
    return FlatResult(
        counts=tuple(tuple(pub) for pub in stated["counts"]),
        qpu_seconds=stated["qpu_seconds"],
        metadata=stated["metadata"],
        layouts=tuple(stated["layouts"]),
    )


def payload_to_frames(payload: PlainPayload) -> tuple[dict[str, Any], list[bytes]]:
    """Return a payload as JSON types and its frames."""
    return {"payload": payload.header}, list(payload.frames)


def payload_from_frames(header: Mapping[str, Any], frames: Sequence[bytes]) -> PlainPayload:
    """Rebuild a payload from `payload_to_frames`."""
    return PlainPayload(header=header["payload"], frames=tuple(frames))


def plain_result_to_frames(result: PlainResult) -> tuple[dict[str, Any], list[bytes]]:
    """Return a result as JSON types and its frames."""
    stated = {
        "native": result.header,
        "qpu_seconds": result.qpu_seconds,
        "metadata": dict(result.metadata),
        **{name: getattr(result, name) for name in _OF_PAYLOAD},
    }
    return stated, list(result.frames)


def plain_result_from_frames(stated: Mapping[str, Any], frames: Sequence[bytes]) -> PlainResult:
    """Rebuild a result from `plain_result_to_frames`."""
    return PlainResult(
        header=stated["native"],
        frames=tuple(frames),
        qpu_seconds=stated["qpu_seconds"],
        metadata=stated["metadata"],
        **{name: stated[name] for name in _OF_PAYLOAD},
    )


def _pub(entry: Mapping[str, Any], frame: bytes) -> FlatPub:
    steps = tuple((name, tuple(q), tuple(c), count) for name, q, c, count in entry["steps"])
    width, points = sum(step[3] for step in steps), entry["points"]
    if len(frame) != 8 * width * points:
        raise ValueError(f"{len(frame)} bytes of angles for {points} points of {width}")
    return FlatPub(
        num_qubits=entry["num_qubits"],
        num_clbits=entry["num_clbits"],
        steps=steps,
        angles=tuple(
            _floats(frame[8 * width * point : 8 * width * (point + 1)]) for point in range(points)
        ),
        shots=entry["shots"],
        seed=entry["seed"],
    )


def _little(values: array[float]) -> bytes:
    if sys.byteorder == "big":
        values = array("d", values)
        values.byteswap()
    return values.tobytes()


def _floats(frame: bytes) -> array[float]:
    values = array("d", frame)
    if sys.byteorder == "big":
        values.byteswap()
    return values
