"""Payloads cut into parts, and their results put together again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import (
    BitArray,
    DataBin,
    PrimitiveResult,
    SamplerPubResult,
    StatevectorSampler,
)

from backends.api import Result, Usage
from backends.payloads import SamplerPayload, payload_kind
from backends.results import result_from_bytes, result_to_bytes
from backends.shapes import ItemShape
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.events import Part
from orchestrator.broker.core.packing import TaskLimits, pack, subtract, whole_parts
from orchestrator.broker.core.records import JobRecord, TaskRecord, by_part
from orchestrator.broker.core.snapshot import EndedJob
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.core.views import QpuTaskState
from orchestrator.broker.runtime.blob_store import BlobStore
from orchestrator.identity import JobId

JOB = JobId("j")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KIND = payload_kind("sampler")


def rotated() -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2)
    circuit.ry(Parameter("theta"), 0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])
    return circuit


def all_parts(payload: SamplerPayload, limits: TaskLimits) -> list[Part]:
    queue = [
        Part(job=JOB, pub=i, first_point=0, end_point=s.points, first_shot=0, end_shot=s.shots)
        for i, s in enumerate(payload.shapes)
    ]
    parts: list[Part] = []
    while queue:
        (piece, *_) = pack(queue, limits)
        parts.append(piece)
        queue[0:1] = subtract(queue[0], piece)
    return parts


def test_merged_bits_stand_where_an_uncut_run_puts_them() -> None:
    values = np.linspace(0, np.pi, 6).reshape(2, 3, 1)
    payload = SamplerPayload.coerce([(rotated(), values)], shots=50, seed=3)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, size=(6, 50, 1), dtype=np.uint8)
    pieces = []
    for part in all_parts(payload, TaskLimits(max_circuits=4, max_shots=20)):
        block = truth[part.first_point : part.end_point, part.first_shot : part.end_shot]
        data = DataBin(c=BitArray(block, 2), shape=(part.points,))
        pieces.append((part, SamplerPubResult(data, metadata={})))
    merged = KIND.merge(pieces[::-1], lambda: payload)
    assert merged[0].data.c.shape == (2, 3)
    assert np.array_equal(merged[0].data.c.array, truth.reshape(2, 3, 50, 1))


def test_a_cut_job_gives_the_distribution_of_an_uncut_one() -> None:
    angles = [0.0, np.pi / 3, np.pi]
    payload = SamplerPayload.coerce([(rotated(), [[a] for a in angles])], shots=4000, seed=11)
    pieces = []
    for part in all_parts(payload, TaskLimits(max_circuits=1, max_shots=300)):
        task = KIND.assemble([(payload, part)])
        assert isinstance(task, SamplerPayload)
        (pub,) = task.pubs
        assert pub.shots <= 300
        assert pub.points == 1
        result = StatevectorSampler(seed=pub.seed).run([pub.to_qiskit()]).result()
        pieces.append((part, result[0]))
    merged = KIND.merge(pieces, lambda: payload)
    for index, angle in enumerate(angles):
        counts = merged[0].data.c[index].get_counts()
        assert sum(counts.values()) == 4000
        assert counts.get("11", 0) / 4000 == pytest.approx(np.sin(angle / 2) ** 2, abs=0.04)


def test_parts_have_seeds_of_their_own_that_follow_from_the_pub() -> None:
    payload = SamplerPayload.coerce([(rotated(), [0.3])], shots=1000, seed=5)
    parts = all_parts(payload, TaskLimits(max_shots=100))
    seeds = [KIND.assemble([(payload, part)]).pubs[0].seed for part in parts]
    again = [KIND.assemble([(payload, part)]).pubs[0].seed for part in parts]
    assert seeds == again
    assert len(set(seeds)) == len(seeds)


def test_a_whole_pub_travels_unchanged() -> None:
    payload = SamplerPayload.coerce([(rotated(), [0.3])], shots=10, seed=5)
    (part,) = all_parts(payload, TaskLimits())
    assert KIND.assemble([(payload, part)]).pubs[0] is payload.pubs[0]


def test_a_part_of_many_blocks_runs_as_blocks_and_is_one_result() -> None:
    payload = SamplerPayload.coerce([rotated_twice()], shots=20_000, seed=5)
    part = Part(
        job=JOB, pub=0, first_point=0, end_point=2, first_shot=0, end_shot=20_000, block=8192
    )
    blocks = part.by_block()
    task = KIND.assemble([(payload, block) for block in blocks])
    assert isinstance(task, SamplerPayload)
    assert [pub.shots for pub in task.pubs] == [8192, 8192, 3616]
    assert task.pubs[0].seed == payload.pubs[0].seed
    assert len({pub.seed for pub in task.pubs}) == 3
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, size=(2, 20_000, 1), dtype=np.uint8)
    runs = [
        SamplerPubResult(
            DataBin(c=BitArray(truth[:, first : first + 8192], 2), shape=(2,)),
            metadata={"shots": min(8192, 20_000 - first)},
        )
        for first in range(0, 20_000, 8192)
    ]
    metadata = {"seed": [7, 8, 9], "workers": [1]}
    assert by_part(metadata, [part]) == {"seed": [7], "workers": [1]}

    def unread() -> SamplerPayload:
        raise AssertionError("no point was cut off, so the payload need not be read")

    (pub,) = KIND.merge(list(zip(blocks, runs, strict=True)), unread)
    assert pub.metadata["shots"] == 20_000
    assert np.array_equal(pub.data.c.array, truth)


def rotated_twice() -> tuple[QuantumCircuit, list[list[float]]]:
    return rotated(), [[0.3], [0.4]]


@dataclass
class StoredResults:
    """A ledger, as far as a job's result is read from it."""

    by_tag: dict[str, bytes]

    def result(self, tag: str) -> bytes:
        return self.by_tag[tag]


@pytest.mark.parametrize("joined", [False, True], ids=["by block", "by part, as before"])
def test_a_stored_result_is_read_in_either_form(joined: bool) -> None:
    """Earlier versions joined a part's blocks before they stored the result."""
    submitted = ev.JobSubmitted(
        job=JOB,
        run="r",
        stage=None,
        call=0,
        qpu="q",
        backend="fake",
        payload_kind="sampler",
        digest="d",
        pubs=(ItemShape(points=1, shots=20_000),),
        num_qubits=1,
        seed=5,
    )
    (part,) = whole_parts(submitted)
    truth = np.random.default_rng(1).integers(0, 2, size=(20_000, 1), dtype=np.uint8)
    ends = [20_000] if joined else [piece.end_shot for piece in part.by_block()]
    native = PrimitiveResult(
        [
            SamplerPubResult(DataBin(c=BitArray(truth[first:end], 1), shape=()))
            for first, end in itertools.pairwise([0, *ends])
        ]
    )
    data = result_to_bytes(Result(native=native, usage=Usage()), "sampler")
    task = TaskRecord(
        planned=ev.TaskPlanned(tag="t", qpu="q", parts=(part,)),
        planned_at=NOW,
        state=QpuTaskState.COMPLETED,
    )
    ended = EndedJob(job=JobRecord(submitted, 0, NOW, tasks=["t"]), tasks=(task,))
    store = BlobStore(BrokerState(), StoredResults({"t": data}))  # type: ignore[arg-type]
    (pub,) = store.result(ended)
    assert pub.data.c.num_shots == 20_000
    assert pub.data.c.get_counts() == BitArray(truth, 1).get_counts()
    (again,) = result_from_bytes(store.encoded_result(ended)).native
    assert again.data.c.get_counts() == pub.data.c.get_counts()
