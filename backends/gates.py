"""The gate MOVE of star-shaped devices, which Qiskit does not know."""

from __future__ import annotations

from qiskit import QuantumCircuit
from qiskit.circuit import Gate
from qiskit.circuit.library import SwapGate

__all__ = ["MOVE", "MoveGate", "without_moves"]

MOVE = "move"


class MoveGate(Gate):  # type: ignore[misc]  # Qiskit has no types
    """Carries a qubit's state into the empty resonator of a star, or back: (qubit, resonator).

    A real MOVE is defined only while one of the two is empty; there it is the swap that this
    gate is defined as, and it is its own inverse. Read from QPY it comes back as a plain
    ``Gate`` of this name and definition, so look at names, not types.
    """

    def __init__(self, label: str | None = None) -> None:
        super().__init__(MOVE, 2, [], label=label)

    def _define(self) -> None:
        definition = QuantumCircuit(2, name=MOVE)
        definition.swap(0, 1)
        self.definition = definition

    def inverse(self, annotated: bool = False) -> MoveGate:  # noqa: ARG002  # Gate's signature
        """Return the gate itself."""
        return MoveGate(label=self.label)


def without_moves(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return the circuit with each MOVE written as a swap, which every simulator knows.

    No star has a native swap, so a noise model may give the errors of MOVE to ``swap``.
    Control flow is left as it is: circuits for a star contain none.
    """
    if not any(step.operation.name == MOVE for step in circuit.data):
        return circuit
    swap = SwapGate()
    rewritten = circuit.copy_empty_like()
    for step in circuit.data:
        known = step.replace(operation=swap) if step.operation.name == MOVE else step
        rewritten.append(known)
    return rewritten
