"""What a call costs more where the backend runs in a process of its own."""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult

from backends.api import Result, SessionId, TaskState, Usage
from backends.child.backend import open_child
from backends.child.environment import Environment
from backends.child.process import Opening
from backends.devices.api import FlatJob, FlatResult
from backends.devices.backend import device_backend
from backends.fake.script import script_target
from backends.payloads import SamplerPayload, payload_from_bytes
from backends.targets import target_to_json
from benchmarks.rows import Row, interleaved

__all__ = ["FlatFactory", "InstantBackend", "InstantDevice", "create", "measure"]

_ROOT = Path(__file__).resolve().parents[1]
_SERVE = (
    f"import sys; sys.path[:0] = [{str(_ROOT)!r}]; from backends.child.server import main; main()"
)
_SHOTS = 1000
_MS = 1e3
_tags = itertools.count()


class InstantBackend:
    """Takes any circuit and returns zeros at once, so that only the way there and back is left."""

    def __init__(self) -> None:
        self._payloads: dict[str, Any] = {}

    def target(self) -> Any:
        """Return a wide target that takes any gate."""
        return replace(script_target(), num_qubits=100, max_concurrent_tasks=None)

    def acquire(self) -> SessionId:
        """Open a session."""
        return SessionId("session")

    def start(self, _session: SessionId, payload: Any, tag: str) -> str:
        """Store the payload."""
        self._payloads[tag] = payload
        return tag

    def status(self, _task: str) -> TaskState:
        """Return COMPLETED."""
        return TaskState.COMPLETED

    def result(self, task: str) -> Result:
        """Return zeros for every register."""
        pubs = []
        for pub in self._payloads.pop(task).pubs:
            registers = {
                register.name: BitArray(
                    np.zeros((pub.shots, math.ceil(register.size / 8)), dtype=np.uint8),
                    register.size,
                )
                for register in pub.circuit.circuit.cregs
            }
            pubs.append(SamplerPubResult(DataBin(**registers, shape=())))
        return Result(native=PrimitiveResult(pubs), usage=Usage(tasks=1))

    def close(self) -> None:
        """Do nothing."""


class InstantDevice:
    """The same by flat circuits and counts."""

    def __init__(self) -> None:
        self._jobs: dict[str, FlatJob] = {}

    def target(self) -> Any:
        """Return a wide target that takes any gate."""
        return {**target_to_json(InstantBackend().target()), "payload_kinds": ["sampler"]}

    def start(self, job: FlatJob, tag: str) -> str:
        """Store the job."""
        self._jobs[tag] = job
        return tag

    def status(self, _task: str) -> str:
        """Return COMPLETED."""
        return "completed"

    def result(self, task: str) -> FlatResult:
        """Return zeros for every bit."""
        pubs = self._jobs.pop(task).pubs
        return FlatResult(
            counts=tuple(({"0" * pub.num_clbits: pub.shots},) * len(pub.angles) for pub in pubs)
        )

    def close(self) -> None:
        """Do nothing."""


def create(_options: Any, *, state_dir: Path) -> InstantBackend:
    """Make an instant backend."""
    del state_dir
    return InstantBackend()


class FlatFactory:
    """Makes instant devices."""

    @staticmethod
    def device(_options: Any, *, state_dir: Path) -> InstantDevice:
        """Make an instant device."""
        del state_dir
        return InstantDevice()


def measure() -> list[Row]:
    """Compare start, status and result in a child with the same in this process."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, factory, inside in (
            ("QPY", "create", InstantBackend),
            ("flat circuits", "FlatFactory", lambda: device_backend(InstantDevice())),
        ):
            opening = Opening(
                backend="instant",
                factory=f"benchmarks.border:{factory}",
                options={},
                state_dir=Path(folder),
            )
            environment = Environment(command=(sys.executable, "-c", _SERVE))
            with closing(open_child(opening, environment)) as outside:
                rows.append(_row(f"Bell circuit, {name}", _bell(), inside(), outside, 2.0))
                rows.append(
                    _row(f"20 qubits and 1,180 gates, {name}", _wide(), inside(), outside, 15.0)
                )
    return rows


def _row(what: str, circuit: QuantumCircuit, inside: Any, outside: Any, most_ms: float) -> Row:
    data = SamplerPayload.coerce([circuit], shots=_SHOTS).to_bytes()
    rounds = 200 if circuit.num_qubits < 10 else 60
    outside_s, inside_s = interleaved(
        [_call(outside, data), _call(inside, data)], rounds=rounds, warmup=5
    )
    over_ms = (outside_s - inside_s) * _MS
    return Row(
        name=f"task in a child: {what}",
        ours=f"{outside_s * _MS:.2f} ms",
        against=f"{inside_s * _MS:.2f} ms",
        what="same backend, which does nothing, in this process; payload as the broker reads it",
        ratio=outside_s / inside_s,
        goal=f"≤ {most_ms:g} ms more (is {over_ms:+.2f} ms)",
        met=over_ms <= most_ms,
    )


def _call(backend: Any, data: bytes) -> Callable[[], object]:
    session = backend.acquire()

    def run() -> object:
        task = backend.start(session, payload_from_bytes(data), f"t{next(_tags)}")
        backend.status(task)
        return backend.result(task)

    return run


def _bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def _wide() -> QuantumCircuit:
    circuit = QuantumCircuit(20)
    for layer in range(20):
        for qubit in range(20):
            circuit.rx(0.1 + layer / 7 + qubit, qubit)
            circuit.rz(0.2 + layer / 9 + qubit, qubit)
        for qubit in range(layer % 2, 19, 1):
            circuit.cz(qubit, qubit + 1)
    while circuit.size() < 1180:
        circuit.x(circuit.size() % 20)
    circuit.measure_all()
    return circuit
