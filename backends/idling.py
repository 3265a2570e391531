"""The times in which qubits of a native circuit wait for others (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction, Clbit, ControlFlowOp, Delay, Qubit

from backends.waiting import delay_seconds

__all__ = ["with_idle_times"]

# Sums of durations differ in their last digits.
_NO_TIME_S = 1e-15


def with_idle_times(circuit: QuantumCircuit, durations_s: Mapping[str, float]) -> QuantumCircuit:
    """Return the circuit with a delay wherever a qubit waits between two of its instructions.

    durations_s: by name of the instruction; 0 for others. Everything starts as late as it can,
    so a qubit's first instruction is not waited for and all qubits end together. A block of
    control flow takes no time itself; within it qubits wait for one another.
    """
    left_s: dict[Qubit | Clbit, float] = {}
    waits: list[list[tuple[Qubit, float]]] = []
    for step in reversed(circuit.data):
        bits = (*step.qubits, *step.clbits)
        end_s = max((left_s.get(bit, 0.0) for bit in bits), default=0.0)
        # Before its last instruction a qubit is waited for; after it, nothing is.
        waits.append([(q, end_s - left_s.get(q, 0.0)) for q in step.qubits])
        for bit in bits:
            left_s[bit] = end_s + _duration_s(step, durations_s)
    timed = circuit.copy_empty_like()
    for step, after in zip(circuit.data, reversed(waits), strict=True):
        operation = step.operation
        if isinstance(operation, ControlFlowOp):
            blocks = [with_idle_times(block, durations_s) for block in operation.blocks]
            operation = operation.replace_blocks(blocks)
        timed.append(step.replace(operation=operation))
        for qubit, wait_s in after:
            if wait_s > _NO_TIME_S:
                timed.append(Delay(wait_s, "s"), [qubit])
    return timed


def _duration_s(step: CircuitInstruction, durations_s: Mapping[str, float]) -> float:
    if step.name == "delay":
        return delay_seconds(step.operation)
    return durations_s.get(step.name, 0.0)
