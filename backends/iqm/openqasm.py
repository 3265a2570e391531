"""Native circuits as files of OpenQASM 3 on physical qubits (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction

from backends.delays import delay_seconds
from backends.errors import PayloadRejected
from backends.iqm.jobs import grouped
from backends.payloads import SamplerPayload

__all__ = ["openqasm_of"]

# The two gates that OpenQASM's library lacks; a MOVE has no meaning without a resonator's states.
_HEAD = """OPENQASM 3.0;
include "stdgates.inc";
gate r(theta, phi) a { U(theta, phi - pi/2, pi/2 - phi) a; }
gate move a, b { }
"""
_NANOSECOND = 1e-9


def openqasm_of(payload: SamplerPayload) -> list[str]:
    """Return the bound circuits of all PUBs in order, a text each.

    Qubit number n is ``$n``, a star's resonator the last one. Measurements that follow each other
    fill a register of their own: ``m0``, ``m1`` and so on. Raises `PayloadRejected` for what the
    device's gates lack.
    """
    texts = []
    for pub in payload.pubs:
        circuit = pub.circuit.circuit
        for row in pub.values.reshape(pub.points, pub.values.shape[-1]):
            bound = circuit.assign_parameters(row) if row.size else circuit
            texts.append(_HEAD + "".join(f"{line};\n" for line in _lines(bound)))
    return texts


def _lines(circuit: QuantumCircuit) -> Iterator[str]:
    names = {qubit: f"${number}" for number, qubit in enumerate(circuit.qubits)}
    number = 0
    for group in grouped(circuit):
        if group[0].name == "measure":
            yield f"bit[{len(group)}] m{number}"
            for place, step in enumerate(group):
                yield f"m{number}[{place}] = measure {names[step.qubits[0]]}"
            number += 1
        else:
            (step,) = group
            yield _line(step, ", ".join(names[qubit] for qubit in step.qubits))


def _line(step: CircuitInstruction, qubits: str) -> str:
    match step.name:
        case "r":
            theta, phi = map(float, step.operation.params)
            return f"r({theta!r}, {phi!r}) {qubits}"
        case "cz" | "move" | "barrier":
            return f"{step.name} {qubits}"
        case "delay":
            return f"delay[{delay_seconds(step.operation) / _NANOSECOND!r}ns] {qubits}"
        case name:
            raise PayloadRejected(f"the device has no {name!r}; transpile for the target first")
