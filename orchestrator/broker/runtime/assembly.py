"""Payloads of tasks built from parts of jobs, and results of jobs merged from their tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult

from backends.api import Result
from backends.payloads import (
    SEED_STRIDE,
    SEEDS,
    EstimatorPayload,
    FrozenSamplerPub,
    Payload,
    SamplerPayload,
)
from orchestrator.broker.core.events import Part, PubShape
from orchestrator.broker.core.records import OF_EACH_PUB
from orchestrator.identity import JobId

__all__ = ["job_result", "part_results", "part_seed", "pub_shapes", "task_payload"]


def pub_shapes(payload: Payload) -> tuple[PubShape, ...]:
    """Return the size of each PUB, as the state machine needs it."""
    return tuple(
        PubShape(
            points=pub.points,
            shots=pub.shots if isinstance(pub, FrozenSamplerPub) else 0,
            num_qubits=pub.circuit.active_qubits,
            depth=pub.circuit.layers,
        )
        for pub in payload.pubs
    )


def task_payload(parts: Sequence[Part], payloads: Mapping[JobId, Payload]) -> Payload:
    """Build what one ``start`` carries: its PUBs are the blocks of the parts, in order.

    All jobs involved must be of one payload kind.
    """
    first = payloads[parts[0].job]
    if isinstance(first, EstimatorPayload):
        whole = [payloads[part.job].pubs[part.pub] for part in parts]
        return EstimatorPayload(pubs=tuple(whole))  # type: ignore[arg-type]  # one kind per task
    pubs = []
    for part in parts:
        pub = payloads[part.job].pubs[part.pub]
        if not isinstance(pub, FrozenSamplerPub):
            raise ValueError(f"job {part.job} is not a sampler job and cannot join this task")
        pubs += [_piece(pub, block) for block in part.by_block()]
    return SamplerPayload(pubs=tuple(pubs))


def part_results(parts: Sequence[Part], result: Result) -> Result:
    """Return the result of a task with one PUB for each part, where the task ran one per block.

    What the metadata state for each PUB is that of the part's first block.
    """
    runs = [part.by_block() for part in parts]
    if all(len(blocks) == 1 for blocks in runs):
        return result
    firsts = [0]
    for blocks in runs:
        firsts.append(firsts[-1] + len(blocks))
    count = firsts.pop()
    found = list(result.native)
    if len(found) != count:
        raise ValueError(f"the task returned {len(found)} results for {count} circuits")
    native = PrimitiveResult(
        [
            found[first] if len(blocks) == 1 else _joined(found[first : first + len(blocks)])
            for first, blocks in zip(firsts, runs, strict=True)
        ],
        metadata=result.native.metadata,
    )
    metadata = {
        key: [value[first] for first in firsts]
        if key in OF_EACH_PUB and isinstance(value, list) and len(value) == count
        else value
        for key, value in result.metadata.items()
    }
    return replace(result, native=native, metadata=metadata)


def _joined(blocks: Sequence[Any]) -> SamplerPubResult:
    """Put blocks of shots of the same points one behind the other."""
    fields = {
        name: BitArray(
            np.concatenate([getattr(block.data, name).array for block in blocks], axis=-2),
            bits.num_bits,
        )
        for name, bits in blocks[0].data.items()
    }
    shots = sum(block.metadata.get("shots", 0) for block in blocks)
    return SamplerPubResult(
        DataBin(**fields, shape=blocks[0].data.shape),
        metadata={**blocks[0].metadata, "shots": shots},
    )


def job_result(
    pieces: Iterable[tuple[Part, Any]], pubs: int, payload: Callable[[], Payload]
) -> PrimitiveResult[Any]:
    """Merge the results of a job's parts into what one uncut run would have returned.

    pieces: every part of the job with the ``PubResult`` that its task returned for it. pubs: how
    many PUBs the job has. payload: reads its payload, asked only if a PUB came in several parts.
    Counts of a PUB are put together along parameter points and shots.
    """
    by_pub: dict[int, list[tuple[Part, Any]]] = {}
    for part, result in pieces:
        by_pub.setdefault(part.pub, []).append((part, result))
    read: Payload | None = None
    merged = []
    for index in range(pubs):
        found = by_pub[index]
        if len(found) == 1:
            merged.append(found[0][1])
            continue
        read = read or payload()
        pub = read.pubs[index]
        if not isinstance(pub, FrozenSamplerPub):
            raise ValueError(f"PUB {index} is an estimator's, yet came in {len(found)} parts")
        merged.append(_merge(pub, found))
    return PrimitiveResult(merged, metadata={"version": 2})


def _piece(pub: FrozenSamplerPub, part: Part) -> FrozenSamplerPub:
    if part.points == pub.points and part.shots == pub.shots:
        return pub
    values = pub.values
    if part.points != pub.points:
        flat = values.reshape(pub.points, values.shape[-1])
        values = flat[part.first_point : part.end_point]
    return replace(pub, values=values, shots=part.shots, seed=part_seed(pub.seed, part))


def part_seed(seed: int | None, part: Part) -> int | None:
    """Return a part's random stream, which follows from the PUB's seed and its place alone.

    Points count on from the PUB's seed as they do in one run; each block of shots but the first
    has a stream of its own. So counts do not depend on how the work was cut.
    """
    if seed is None:
        return None
    if part.first_shot:
        text = f"{seed}:{part.first_shot}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1
    return (seed + SEED_STRIDE * part.first_point) % SEEDS


def _merge(pub: FrozenSamplerPub, pieces: Sequence[tuple[Part, Any]]) -> SamplerPubResult:
    shape = pub.values.shape[:-1]
    template = pieces[0][1]
    fields = {}
    for name, bits in template.data.items():
        num_bytes = bits.array.shape[-1]
        array = np.zeros((pub.points, pub.shots, num_bytes), dtype=np.uint8)
        for part, result in pieces:
            block = getattr(result.data, name).array.reshape(part.points, part.shots, num_bytes)
            array[part.first_point : part.end_point, part.first_shot : part.end_shot] = block
        fields[name] = BitArray(array.reshape(*shape, pub.shots, num_bytes), bits.num_bits)
    metadata = {**template.metadata, "shots": pub.shots, "parts": len(pieces)}
    return SamplerPubResult(DataBin(**fields, shape=shape), metadata=metadata)
