"""Pairs of circuits that look alike in all but what they do, as two tenants would send them."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from qiskit import QuantumCircuit, qpy
from qiskit.circuit import (
    AnnotatedOperation,
    ControlledGate,
    ControlModifier,
    Gate,
    Instruction,
    Parameter,
    ParameterVector,
)
from qiskit.circuit.library import XGate

from backends.circuits import FrozenCircuit
from backends.payloads import FrozenSamplerPub, SamplerPayload

Pair = Callable[[bool], QuantumCircuit]


def turned(name: str, turn: bool) -> QuantumCircuit:
    body = QuantumCircuit(1, name=name)
    body.rx(np.pi if turn else 0.0, 0)
    return body


def gate(turn: bool) -> QuantumCircuit:
    made = Gate("g", 1, [0.5])
    made.definition = turned("g", turn)
    circuit = QuantumCircuit(1)
    circuit.append(made, [0])
    return measured(circuit)


def instruction(turn: bool) -> QuantumCircuit:
    made = Instruction("i", 1, 0, [0.5])
    made.definition = turned("i", turn)
    circuit = QuantumCircuit(1)
    circuit.append(made, [0])
    return measured(circuit)


def controlled(turn: bool) -> QuantumCircuit:
    base = turned("g", turn).to_gate()
    made = ControlledGate("c", 2, [], num_ctrl_qubits=1, base_gate=base)
    made.definition = base.control().definition
    circuit = QuantumCircuit(2)
    circuit.x(0)
    circuit.append(made, [0, 1])
    return measured(circuit)


def controlled_otherwise(turn: bool) -> QuantumCircuit:
    """One base, but another definition, which is what runs."""
    made = ControlledGate("c", 2, [], num_ctrl_qubits=1, base_gate=turned("g", True).to_gate())
    made.definition = turned("g", turn).to_gate().control().definition
    circuit = QuantumCircuit(2)
    circuit.x(0)
    circuit.append(made, [0, 1])
    return measured(circuit)


def annotated(turn: bool) -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.x(0)
    circuit.append(AnnotatedOperation(XGate(), ControlModifier(1, int(turn))), [0, 1])
    return measured(circuit)


def array(turn: bool) -> QuantumCircuit:
    made = Instruction("i", 1, 0, [np.eye(2)])
    made.definition = turned("i", turn)
    circuit = QuantumCircuit(1)
    circuit.append(made, [0])
    return measured(circuit)


def columns(vector: bool) -> QuantumCircuit:
    """Twelve angles: the third column is x[2] of a vector, and x[11] of single ones."""
    names = ParameterVector("x", 12) if vector else [Parameter(f"x[{i}]") for i in range(12)]
    circuit = QuantumCircuit(12)
    for index, parameter in enumerate(names):
        circuit.rx(parameter, index)
    return measured(circuit)


def measured(circuit: QuantumCircuit) -> QuantumCircuit:
    circuit.measure_all()
    return circuit


PAIRS: dict[str, Pair] = {
    "gate": gate,
    "instruction": instruction,
    "controlled": controlled,
    "controlled-otherwise": controlled_otherwise,
    "annotated": annotated,
    "array": array,
    "columns": columns,
}


def payloads(pair: str, *, raw: bool) -> list[tuple[SamplerPayload, str]]:
    """Return two payloads, each with the one outcome that it must give.

    raw: with Qiskit's bytes as they come, which is what a client of another make sends.
    """
    made = []
    for turn in (False, True):
        circuit = PAIRS[pair](turn)
        values = np.zeros(circuit.num_parameters)
        values[2:3] = np.pi
        if raw:
            file = io.BytesIO()
            qpy.dump(circuit, file)
            frozen = FrozenCircuit.from_qpy(file.getvalue())
            pub = FrozenSamplerPub(circuit=frozen, values=values, shots=20, seed=1)
            payload = SamplerPayload(pubs=(pub,))
        else:
            payload = SamplerPayload.coerce([(circuit, values)], shots=20, seed=1)
        made.append((payload, outcome(pair, turn)))
    return made


def outcome(pair: str, turn: bool) -> str:
    match pair:
        case "annotated" | "controlled" | "controlled-otherwise":
            return "11" if turn else "01"
        case "columns":
            flipped = 2 if turn else 11
            return "".join("1" if 11 - i == flipped else "0" for i in range(12))
        case _:
            return str(int(turn))
