"""What a circuit says, as a digest that is the same in every process and at every time.

Qiskit's own bytes will not do: QPY writes the symbols of an expression in the random order
of a hash map, and the definition of a user's gate under a running number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import (
    Barrier,
    ControlFlowOp,
    ControlledGate,
    Delay,
    Gate,
    Instruction,
    Measure,
    Parameter,
    ParameterExpression,
    Reset,
)
from qiskit.circuit.library import Initialize, PauliGate, PermutationGate, StatePreparation
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping

__all__ = ["circuit_digest"]

_STANDARD = frozenset(type(gate) for gate in get_standard_gate_name_mapping().values()) | {
    Barrier,
    Delay,
    Initialize,
    Measure,
    PauliGate,
    PermutationGate,
    Reset,
    StatePreparation,
}


def circuit_digest(circuit: QuantumCircuit) -> str:
    """Return a hex digest (BLAKE2b, 128 bit) of all that decides a circuit's results.

    That is: registers, wires, instructions in order, parameter names and expressions, the
    global phase, and the definitions of gates that are not Qiskit's own. A circuit's name and
    metadata and the identity of its parameters do not count.
    """
    state = hashlib.blake2b(digest_size=16)
    _feed(state, circuit)
    return state.hexdigest()


def _feed(state: Any, circuit: QuantumCircuit) -> None:
    """Add one circuit, then, depth first, the circuits inside its instructions."""
    qubits = {bit: index for index, bit in enumerate(circuit.qubits)}
    clbits = {bit: index for index, bit in enumerate(circuit.clbits)}
    registers = [
        (r.name, [qubits[bit] if bit in qubits else clbits[bit] for bit in r])
        for r in (*circuit.qregs, *circuit.cregs)
    ]
    parts: list[Any] = [len(qubits), len(clbits), registers, _plain(circuit.global_phase)]
    parts += [str(variable) for variable in circuit.iter_vars()]
    inner: list[QuantumCircuit] = []
    for step in circuit.data:
        wires = [qubits[bit] for bit in step.qubits], [clbits[bit] for bit in step.clbits]
        if step.is_standard_gate():  # most are; making their Python objects costs most of the time
            parts.append((step.name, *wires, [_plain(p) for p in step.params]))
            continue
        operation = step.operation
        # Qiskit names an unnamed circuit, and the gate made of it, by a running number
        name = re.sub(r"circuit-\d+", "circuit", operation.name)
        values = [_plain(p) for p in operation.params if not isinstance(p, QuantumCircuit)]
        parts.append((name, *wires, values))
        if operation.__class__ not in _STANDARD and operation.base_class not in _STANDARD:
            parts.append(_extras(operation, clbits))
            inner += _inner(operation)
    state.update(repr(parts).encode())
    for part in inner:
        _feed(state, part)


def _extras(operation: Any, clbits: dict[Any, int]) -> Any:
    """Return what distinguishes an unusual instruction besides its name and parameters.

    Not its Python type: QPY brings a gate of a class of one's own back as a plain ``Gate``.
    """
    if isinstance(operation, ControlledGate):
        return (operation.num_ctrl_qubits, operation.ctrl_state)
    condition = getattr(operation, "condition", None)
    if condition is None and isinstance(operation, ControlFlowOp):
        condition = getattr(operation, "target", None)
    if isinstance(condition, tuple):
        wires, value = condition
        bits = [wires] if wires in clbits else list(wires)
        return ([clbits[bit] for bit in bits], int(value))
    cases: Any = getattr(operation, "cases_specifier", tuple)()
    return (str(condition), [str(labels) for labels, _ in cases])


def _inner(operation: Any) -> Iterable[QuantumCircuit]:
    """Return the circuits an instruction is made of: blocks, or a definition."""
    if isinstance(operation, ControlFlowOp):
        return list(operation.blocks)
    if isinstance(operation, ControlledGate):
        return [_as_circuit(operation.base_gate)]
    own = operation.params and isinstance(operation.params[0], np.ndarray)
    definition = None if own else getattr(operation, "definition", None)
    return [] if definition is None else [definition]


def _as_circuit(gate: Gate) -> QuantumCircuit:
    circuit = QuantumCircuit(gate.num_qubits)
    circuit.append(gate, range(gate.num_qubits))
    return circuit


def _plain(value: Any) -> Any:
    """Reduce a parameter to something whose ``repr`` is complete and stable."""
    if value.__class__ is float:
        return value
    if isinstance(value, Parameter):
        return ("parameter", value.name)
    if isinstance(value, ParameterExpression):
        return ("expression", str(value), sorted(p.name for p in value.parameters))
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, hashlib.blake2b(value.tobytes()).hexdigest())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Instruction):
        return (value.name, [_plain(p) for p in value.params])
    return value
