"""Gives blocks of control flow the bits of the circuit around them, which Aer looks up there."""

from __future__ import annotations

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction, ControlFlowOp, Store, SwitchCaseOp

# Private, and without a public door: ``compose`` uses it, but fails on some transpiled blocks.
from qiskit.circuit._classical_resource_map import VariableMapper

__all__ = ["with_shared_bits"]


def with_shared_bits(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return an equal circuit whose blocks, at every depth, are made of its own bits.

    A circuit that was read from QPY has blocks with bits of their own. Aer finds the bits of a
    condition inside such a block only where a register tells which they are.
    """
    if not any(step.is_control_flow() for step in circuit.data):
        return circuit
    shared: QuantumCircuit = circuit.copy_empty_like()
    for step in circuit.data:
        if step.is_control_flow():
            blocks = [_placed(block, step, circuit) for block in step.operation.blocks]
            step = step.replace(operation=step.operation.replace_blocks(blocks))  # noqa: PLW2901
        shared._append(step)  # noqa: SLF001  # its wires are known
    return shared


def _placed(
    block: QuantumCircuit, step: CircuitInstruction, around: QuantumCircuit
) -> QuantumCircuit:
    """Return a block of ``step`` on the step's own wires and bits, and so its blocks."""
    bits = set(step.clbits)
    registers = [register for register in around.cregs if bits.issuperset(register)]
    placed = QuantumCircuit(list(step.qubits), list(step.clbits), *registers)
    placed.global_phase = block.global_phase
    wires = dict(zip(block.qubits, step.qubits, strict=True))
    outer = dict(zip(block.clbits, step.clbits, strict=True))
    mapper = VariableMapper(placed.cregs, outer, {}, add_register=placed.add_register)
    for inner in block.data:
        moved = inner.replace(
            qubits=[wires[qubit] for qubit in inner.qubits],
            clbits=[outer[bit] for bit in inner.clbits],
        )
        if inner.is_control_flow():
            moved = moved.replace(operation=_renamed(inner.operation, mapper))
        elif isinstance(inner.operation, Store):
            sides = inner.operation.lvalue, inner.operation.rvalue
            moved = moved.replace(operation=Store(*map(mapper.map_expr, sides)))
        placed._append(moved)  # noqa: SLF001
    return with_shared_bits(placed)


def _renamed(operation: ControlFlowOp, mapper: VariableMapper) -> ControlFlowOp:
    """Return an operation whose condition or target is on the outer bits."""
    renamed = operation.replace_blocks(operation.blocks)
    if isinstance(operation, SwitchCaseOp):
        renamed.target = mapper.map_target(operation.target)
    elif getattr(operation, "condition", None) is not None:
        renamed.condition = mapper.map_condition(operation.condition)
    return renamed
