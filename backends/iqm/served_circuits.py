"""Circuits and results of IQM's protocol, as a rehearsed server reads and states them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.primitives import BitArray

from backends.gates import MoveGate
from backends.iqm.components import Components
from backends.rehearsal import RehearsedJob

__all__ = ["MOST_INSTRUCTIONS", "CircuitJob", "CircuitReader", "counts_of", "measurements_of"]

MOST_INSTRUCTIONS = 10_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Instruction(_Strict):
    name: str
    locus: tuple[str, ...] = Field(strict=False)
    args: dict[str, Any] = {}
    implementation: str | None = None


class _Circuit(_Strict):
    name: str
    instructions: list[_Instruction] = Field(min_length=1, max_length=MOST_INSTRUCTIONS)
    metadata: dict[str, Any] | None = None


class CircuitJob(BaseModel):
    """A job as clients send it; what changes only how pulses are scheduled is read and left."""

    model_config = ConfigDict(extra="ignore")

    circuits: list[_Circuit] = Field(min_length=1)
    shots: int = Field(ge=1)
    calibration_set_id: str | None = None
    qubit_mapping: list[dict[str, str]] | None = None
    heralding_mode: Literal["none", "zeros"] = "none"
    move_gate_validation: Literal["strict", "allow_prx", "none"] = "strict"


# Of each measurement of a circuit, in order: its key, and the classical bits that it fills.
_Keys = list[tuple[str, range]]


@dataclass(frozen=True, slots=True)
class CircuitReader:
    """Reads circuits of the wire. mapping: physical names by those that the client uses."""

    components: Components
    mapping: Mapping[str, str]

    def circuit(self, sent: _Circuit) -> tuple[QuantumCircuit, _Keys]:
        """Return the circuit and its measurements. Raises ``ValueError`` for what is none."""
        wires = self.components.num_qubits + (self.components.resonator is not None)
        circuit = QuantumCircuit(wires)
        keys: _Keys = []
        for instruction in sent.instructions:
            qubits = [
                self.components.number(self.mapping.get(name, name)) for name in instruction.locus
            ]
            if len(set(qubits)) < len(qubits):
                raise ValueError(f"{instruction.name} on {list(instruction.locus)}")
            self._add(circuit, instruction, qubits, keys)
        if not keys:
            raise ValueError(f"circuit {sent.name!r} measures nothing")
        return circuit, keys

    def _add(
        self, circuit: QuantumCircuit, sent: _Instruction, qubits: list[int], keys: _Keys
    ) -> None:
        match sent.name:
            case "prx":
                circuit.r(_number(sent, "angle"), _number(sent, "phase"), *_of(sent, qubits, 1))
            case "cz":
                circuit.cz(*_of(sent, qubits, 2))
            case "move":
                circuit.append(MoveGate(), _of(sent, qubits, 2))
            case "barrier":
                circuit.barrier(qubits)
            case "delay":
                circuit.delay(_number(sent, "duration"), qubits, unit="s")
            case "measure":
                key = sent.args.get("key")
                if not isinstance(key, str) or key in dict(keys):
                    raise ValueError(f"measure with key {key!r}; expected one of its own")
                first = circuit.num_clbits
                register = ClassicalRegister(len(qubits), f"m{len(keys)}")
                circuit.add_register(register)
                circuit.measure(qubits, register)
                keys.append((key, range(first, first + len(qubits))))
            case _:
                raise ValueError(
                    f"instruction {sent.name!r}; expected prx, cz, move, measure, barrier or delay"
                )


def _number(sent: _Instruction, name: str) -> float:
    value = sent.args.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{sent.name} with {name} = {value!r}; expected a number")
    return float(value)


def _of(sent: _Instruction, qubits: list[int], number: int) -> list[int]:
    if len(qubits) != number:
        raise ValueError(f"{sent.name} on {list(sent.locus)}; expected {number}")
    return qubits


def measurements_of(job: RehearsedJob) -> list[dict[str, list[list[int]]]]:
    """Return, by circuit and key, a row of bits for each shot of a completed job."""
    assert job.result is not None  # as of each completed job
    answer = []
    for pub, keys in zip(job.result.native, job.details["keys"], strict=True):
        answer.append({key: _table(pub.data[f"m{n}"]).tolist() for n, (key, _) in enumerate(keys)})
    return answer


def counts_of(job: RehearsedJob) -> list[dict[str, Any]]:
    """Return, by circuit, how often each outcome of a completed job came."""
    answer = []
    for circuit in measurements_of(job):
        tables = [np.asarray(table) for table in circuit.values()]
        outcomes, numbers = np.unique(np.concatenate(tables, axis=1), axis=0, return_counts=True)
        counts = {
            "".join(map(str, outcome)): int(number)
            for outcome, number in zip(outcomes.tolist(), numbers, strict=True)
        }
        answer.append({"measurement_keys": list(circuit), "counts": counts})
    return answer


def _table(bits: BitArray) -> Any:
    """Return a register's shots as a matrix, bit 0 in the first column."""
    unpacked = np.unpackbits(bits.array[:, ::-1], axis=1, bitorder="little")
    return unpacked[:, : bits.num_bits]
