"""Whether a circuit already is what a target executes, so that it must stay as it is."""

from __future__ import annotations

from collections.abc import Iterable

from qiskit import QuantumCircuit

from backends.api import Target
from backends.gates import MOVE, is_own
from backends.lowering import usable_qubits

__all__ = ["conforms"]

_Steps = list[tuple[str, tuple[int, ...]]]


def conforms(circuit: QuantumCircuit, target: Target) -> bool:
    """Whether every gate is native, on usable and coupled qubits; on a star, MOVEs pair up.

    Its wires then count as the device's own. Control flow never conforms: compiling decides.
    """
    known = {"barrier", "delay", "measure", *(target.native_gates or ())}
    if target.mid_circuit_measurement:
        known.add("reset")
    if not all(step.name in known and is_own(step.operation) for step in circuit.data):
        return False
    number = {bit: i for i, bit in enumerate(circuit.qubits)}
    steps: _Steps = [
        (step.name, tuple(number[bit] for bit in step.qubits))
        for step in circuit.data
        if step.name != "barrier"
    ]
    if target.resonator is not None:
        return _fit_star(steps, usable_qubits(target), target.resonator)
    return _fit_pairs(steps, usable_qubits(target), target.coupling)


def _fit_pairs(
    steps: _Steps, usable: Iterable[int], coupling: Iterable[tuple[int, int]] | None
) -> bool:
    alive = set(usable)
    coupled = None if coupling is None else {frozenset(pair) for pair in coupling}
    return all(
        alive.issuperset(qubits)
        and (len(qubits) < 2 or coupled is None or frozenset(qubits) in coupled)
        for _, qubits in steps
    )


def _fit_star(steps: _Steps, usable: Iterable[int], resonator: int) -> bool:
    alive = set(usable)
    inside: int | None = None
    for name, qubits in steps:
        qubit = qubits[0]
        if qubit not in alive or (len(qubits) > 1 and qubits[1] != resonator):
            return False
        if name == MOVE:
            if inside not in (None, qubit):
                return False
            inside = qubit if inside is None else None
        elif inside == qubit or (len(qubits) > 1 and inside is None):
            return False
    return inside is None
