"""Circuits and samples of AQT's protocol, as a rehearsed server reads and states them."""

from __future__ import annotations

import math
import uuid
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from qiskit import QuantumCircuit

from backends.rehearsal import RehearsedJob

__all__ = ["AqtJob", "Circuit", "circuit_of", "samples_of"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _R(_Strict):
    operation: Literal["R"]
    qubit: int = Field(ge=0)
    theta: float = Field(ge=0, le=1)
    phi: float = Field(ge=0, le=2)

    def add_to(self, circuit: QuantumCircuit) -> None:
        circuit.r(self.theta * math.pi, self.phi * math.pi, self.qubit)


class _RZ(_Strict):
    operation: Literal["RZ"]
    qubit: int = Field(ge=0)
    phi: float = Field(allow_inf_nan=False)

    def add_to(self, circuit: QuantumCircuit) -> None:
        circuit.rz(self.phi * math.pi, self.qubit)


class _RXX(_Strict):
    operation: Literal["RXX"]
    qubits: list[Annotated[int, Field(ge=0)]] = Field(min_length=2, max_length=2)
    theta: float = Field(ge=0, le=0.5)

    def add_to(self, circuit: QuantumCircuit) -> None:
        circuit.rxx(self.theta * math.pi, *self.qubits)


class _Measure(_Strict):
    operation: Literal["MEASURE"]


_Gate = _R | _RZ | _RXX
_Operation = Annotated[_Gate | _Measure, Field(discriminator="operation")]


class Circuit(_Strict):
    """A circuit as clients send it."""

    repetitions: int = Field(ge=1, le=2000)
    number_of_qubits: int = Field(ge=1, le=31)
    quantum_circuit: list[_Operation] = Field(min_length=1, max_length=2000)


class _Circuits(_Strict):
    circuits: list[Circuit] = Field(min_length=1, max_length=50)


class AqtJob(_Strict):
    """A job of the cloud as clients send it."""

    job_type: Literal["quantum_circuit"]
    label: str | None = None
    payload: _Circuits


def circuit_of(sent: Circuit) -> QuantumCircuit:
    """Return a circuit that measures the ions of its gates, in order, lowest bit first.

    To simulate the others, which stay in their ground state, would take long.
    """
    gates, last = _gates(sent), sent.quantum_circuit[-1]
    if not isinstance(last, _Measure) or len(gates) != len(sent.quantum_circuit) - 1:
        raise ValueError("a circuit ends with its only MEASURE")
    for gate in gates:
        ions = _ions(gate)
        if max(ions) >= sent.number_of_qubits or len(set(ions)) < len(ions):
            raise ValueError(
                f"{gate.operation} on {ions}; expected different ions below {sent.number_of_qubits}"
            )
    used = _used(sent)
    circuit = QuantumCircuit(sent.number_of_qubits, len(used))
    for gate in gates:
        gate.add_to(circuit)
    circuit.measure(used, range(len(used)))
    return circuit


def _gates(sent: Circuit) -> list[_Gate]:
    return [one for one in sent.quantum_circuit if not isinstance(one, _Measure)]


def _ions(gate: _Gate) -> list[int]:
    return gate.qubits if isinstance(gate, _RXX) else [gate.qubit]


def _used(sent: Circuit) -> list[int]:
    """Return the ions of a circuit's gates; the first one if it has none."""
    return sorted({ion for gate in _gates(sent) for ion in _ions(gate)}) or [0]


def samples_of(job: RehearsedJob, zero_as_one: float) -> dict[str, list[list[int]]]:
    """Return the shots of each circuit, of each shot the ions in order.

    zero_as_one: how often an ion is read wrongly that is in its ground state.
    """
    assert job.result is not None  # as of each completed job
    random = np.random.default_rng(uuid.UUID(job.id).int)  # the same whenever it is asked for
    answer = {}
    sent: list[Circuit] = job.details
    for number, (circuit, pub) in enumerate(zip(sent, job.result.native, strict=True)):
        bits = pub.data["c"]
        shape = (circuit.repetitions, circuit.number_of_qubits)
        rows = (random.random(shape) < zero_as_one).astype(np.uint8)
        unpacked = np.unpackbits(bits.array[:, ::-1], axis=1, bitorder="little")
        rows[:, _used(circuit)] = unpacked[:, : bits.num_bits]
        answer[str(number)] = rows.tolist()
    return answer
