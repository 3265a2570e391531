"""Gates beyond Qiskit's own: the MOVE of star-shaped devices, and users' gates with known names."""

from __future__ import annotations

from qiskit import QuantumCircuit
from qiskit.circuit import (
    CircuitInstruction,
    ControlFlowOp,
    ControlledGate,
    Gate,
    Instruction,
    Operation,
)
from qiskit.circuit.library import SwapGate
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping

from backends.api import PayloadRejected

__all__ = ["MOVE", "MoveGate", "inline_lookalikes", "is_own", "without_moves"]

MOVE = "move"

# Instructions of exactly these types are what a user, or QPY, made of a definition.
_BLANK = frozenset({ControlledGate, Gate, Instruction})
# Gates that a program in OpenQASM 2 defines have types of their own until they went through QPY.
_QASM2 = "qiskit.qasm2"

# What Qiskit's synthesis or Aer does something of its own for, going by the name alone, besides
# Qiskit's standard gates. A name too many here costs nothing: such a gate is its definition.
_SPECIAL_NAMES = """
AND BitwiseXor FullAdder HalfAdder InnerProduct IntComp ModularAdder Multiplier OR
PauliEvolution WeightedSum aer_store annotated break_loop clifford continue_loop delay
diagonal for_loop if_else initialize jump kraus linear_function mark mcmt mcp mcphase mcr
mcrx mcry mcrz mcswap mcsx mcu mcu1 mcu2 mcu3 mcx mcx_gray mcy mcz measure move multiplexer
pauli permutation qerror_loc qft quantum_channel reset roerror set_density_matrix
set_matrix_product_state set_stabilizer set_statevector set_superop set_unitary snapshot store
superop switch_case unitary while_loop
"""
_SPECIAL = frozenset(_SPECIAL_NAMES.split())


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
    if kind in _BLANK or kind.__module__.startswith(_QASM2):
        return False
    return kind.__module__.split(".")[0] in ("qiskit", "qiskit_aer")


def inline_lookalikes(circuit: QuantumCircuit) -> QuantumCircuit:
    """Replace gates that carry the name of a known gate and another definition.

    Qiskit and Aer go by names: a user's gate called "r" would be taken for the native one.
    Those inside other users' gates and inside control flow are replaced too; a circuit without
    any is returned itself. Raises `PayloadRejected` for one that has no definition.
    """
    while any(_holds_lookalike(step) for step in circuit.data):
        plain = circuit.copy_empty_like()
        for step in circuit.data:
            operation = step.operation
            if not _holds_lookalike(step):
                plain.append(step)
            elif isinstance(operation, ControlFlowOp):
                blocks = [inline_lookalikes(block) for block in operation.blocks]
                plain.append(step.replace(operation=operation.replace_blocks(blocks)))
            else:
                plain.compose(
                    operation.definition,
                    [circuit.find_bit(q).index for q in step.qubits],
                    [circuit.find_bit(c).index for c in step.clbits],
                    inplace=True,
                )
        circuit = plain
    return circuit


def _holds_lookalike(step: CircuitInstruction) -> bool:
    if step.is_standard_gate():
        return False
    operation = step.operation
    if isinstance(operation, ControlFlowOp):
        return any(_holds_lookalike(inner) for block in operation.blocks for inner in block.data)
    if is_own(operation):
        return False
    named = operation.name in _SPECIAL or operation.name in get_standard_gate_name_mapping()
    definition = getattr(operation, "definition", None)
    if definition is not None:
        return named or any(_holds_lookalike(inner) for inner in definition.data)
    if named and isinstance(operation, Gate):  # channels, which are no gates, have none either
        raise PayloadRejected(
            f"gate {operation.name!r} is declared with the name of a known gate and without a "
            "definition; define it, or use the known one"
        )
    return False


def _is_swap(operation: Operation) -> bool:
    if isinstance(operation, MoveGate):
        return True
    definition = getattr(operation, "definition", None)
    return definition is not None and [step.name for step in definition.data] == ["swap"]
