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
    shared: QuantumCircuit = circuit.copy_empty_like()
    for step in circuit.data:
        shared._append(_shared(step, circuit) if step.is_control_flow() else step)  # noqa: SLF001
    return shared


def _shared(step: CircuitInstruction, circuit: QuantumCircuit) -> CircuitInstruction:
    blocks = []
    for block in step.operation.blocks:
        bits = set(step.clbits)
        registers = [register for register in circuit.cregs if bits.issuperset(register)]
        outer = QuantumCircuit(list(step.qubits), list(step.clbits), *registers)
        outer.compose(block, qubits=step.qubits, clbits=step.clbits, inplace=True, copy=False)
        blocks.append(with_shared_bits(outer))
    return step.replace(operation=step.operation.replace_blocks(blocks))
