"""Gates beyond Qiskit's own: the MOVE of star-shaped devices, and users' gates with known names."""

from __future__ import annotations

from qiskit import QuantumCircuit
from qiskit.circuit import ControlledGate, Gate, Instruction, Operation
from qiskit.circuit.library import SwapGate
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping

__all__ = ["MOVE", "MoveGate", "inline_lookalikes", "is_own", "without_moves"]

MOVE = "move"

# Instructions of exactly these types are what a user, or QPY, made of a definition.
_BLANK = frozenset({ControlledGate, Gate, Instruction})


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


def is_own(operation: Operation) -> bool:
    """Whether an instruction is Qiskit's own (or MOVE), so that its name says what it does."""
    kind = getattr(operation, "base_class", type(operation))
    if operation.name == MOVE:
        return _is_swap(operation)
    return kind not in _BLANK and kind.__module__.split(".")[0] in ("qiskit", "qiskit_aer")


def inline_lookalikes(circuit: QuantumCircuit) -> QuantumCircuit:
    """Replace gates that carry the name of a known gate and another definition.

    Qiskit and Aer go by names: a user's gate called "r" would be taken for the native one.
    """
    while any(_is_lookalike(step.operation) for step in circuit.data):
        plain = circuit.copy_empty_like()
        for step in circuit.data:
            if _is_lookalike(step.operation):
                plain.compose(
                    step.operation.definition,
                    [circuit.find_bit(q).index for q in step.qubits],
                    [circuit.find_bit(c).index for c in step.clbits],
                    inplace=True,
                )
            else:
                plain.append(step)
        circuit = plain
    return circuit


def _is_lookalike(operation: Operation) -> bool:
    if is_own(operation) or getattr(operation, "definition", None) is None:
        return False
    return operation.name in get_standard_gate_name_mapping() or operation.name == MOVE


def _is_swap(operation: Operation) -> bool:
    if isinstance(operation, MoveGate):
        return True
    definition = getattr(operation, "definition", None)
    return definition is not None and [step.name for step in definition.data] == ["swap"]
