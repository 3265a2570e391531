"""Gives blocks of control flow the bits of the circuit around them, which Aer looks up there."""

from __future__ import annotations

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction

__all__ = ["with_shared_bits"]


def with_shared_bits(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return an equal circuit whose blocks, at every depth, are made of its own bits.

    A circuit that was read from QPY has blocks with bits of their own. Aer finds the bits of a
    condition inside such a block only where a register tells which they are.
    """
    if not any(step.is_control_flow() for step in circuit.data):
        return circuit
    return _with_blocks_on_wires(_with_conditions_on_own_bits(circuit))


def _with_conditions_on_own_bits(circuit: QuantumCircuit) -> QuantumCircuit:
    """Write the conditions at every depth in the bits of the circuit.

    Innermost first: composing renames the bits of conditions at every depth alike.
    """
    made: QuantumCircuit = circuit.copy_empty_like()
    for step in circuit.data:
        if step.is_control_flow():
            blocks = []
            for block in step.operation.blocks:
                outer = _empty_on(step, circuit)
                inner = _with_conditions_on_own_bits(block)
                outer.compose(inner, qubits=step.qubits, clbits=step.clbits, inplace=True)
                blocks.append(outer)
            step = step.replace(operation=step.operation.replace_blocks(blocks))  # noqa: PLW2901
        made._append(step)  # noqa: SLF001  # its wires are known
    return made


def _with_blocks_on_wires(circuit: QuantumCircuit) -> QuantumCircuit:
    """Make the blocks at every depth of the bits that they act on, outermost first."""
    made: QuantumCircuit = circuit.copy_empty_like()
    for step in circuit.data:
        if step.is_control_flow():
            blocks = []
            for block in step.operation.blocks:
                placed = _empty_on(step, circuit)
                placed.global_phase = block.global_phase
                wires = dict(zip(block.qubits, step.qubits, strict=True))
                bits = dict(zip(block.clbits, step.clbits, strict=True))
                for inner in block.data:
                    moved = inner.replace(
                        qubits=[wires[qubit] for qubit in inner.qubits],
                        clbits=[bits[bit] for bit in inner.clbits],
                    )
                    placed._append(moved)  # noqa: SLF001
                blocks.append(_with_blocks_on_wires(placed))
            step = step.replace(operation=step.operation.replace_blocks(blocks))  # noqa: PLW2901
        made._append(step)  # noqa: SLF001
    return made


def _empty_on(step: CircuitInstruction, circuit: QuantumCircuit) -> QuantumCircuit:
    """Return an empty circuit of the wires of a step, and the registers that lie within them."""
    bits = set(step.clbits)
    registers = [register for register in circuit.cregs if bits.issuperset(register)]
    return QuantumCircuit(list(step.qubits), list(step.clbits), *registers)
