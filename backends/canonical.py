"""One form for equal circuits, so that equal circuits are equal bytes in every process."""

from __future__ import annotations

import io
import uuid
from functools import lru_cache

from qiskit import QuantumCircuit, qpy
from qiskit.circuit import ClassicalRegister, Parameter, ParameterExpression, QuantumRegister

from backends.delays import delays_as_expressions, delays_as_numbers
from backends.gates import MOVE, MoveGate, check_instructions, inline_definitions
from backends.qpy_outline import put_in_order

__all__ = ["canonical", "canonical_qpy", "free_name", "with_registers"]

_NAME = "circuit"
# The oldest format that every Qiskit named in pyproject.toml writes by the same code.
_VERSION = 17
_QISKIT = slice(7, 10)


def canonical(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return an equal circuit without all that does not decide its results.

    Composed gates are written out (`inline_definitions`), parameters are named by their column,
    since Qiskit gives each a random id, and names, metadata, layout and quantum registers go. A
    bit outside a classical register gets one. Raises `PayloadRejected` for what cannot run.
    """
    check_instructions(circuit)
    whole = with_registers(delays_as_numbers(inline_definitions(circuit)))
    plain = _without_names(whole)
    _call_by_column(plain)
    return plain


def with_registers(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return a circuit with each loose bit in a register named ``c`` and the bit's number."""
    loose = [bit for bit in circuit.clbits if not circuit.find_bit(bit).registers]
    if not loose:
        return circuit
    whole = circuit.copy()
    for bit in loose:
        name = free_name(whole, f"c{whole.find_bit(bit).index}")
        whole.add_register(ClassicalRegister(bits=[bit], name=name))
    return whole


def free_name(circuit: QuantumCircuit, wanted: str) -> str:
    """Return a name that no register of the circuit has: the wanted one, or longer."""
    taken = {register.name for register in (*circuit.qregs, *circuit.cregs)}
    while wanted in taken:
        wanted += "_"
    return wanted


def canonical_qpy(circuit: QuantumCircuit) -> bytes:
    """Return a canonical circuit in QPY: equal circuits give equal bytes, in every process."""
    buffer = io.BytesIO()
    qpy.dump(delays_as_expressions(circuit), buffer, version=_VERSION)
    data = bytearray(buffer.getvalue())
    data[_QISKIT] = bytes((2, 4, 0))  # who wrote it does not matter to what it says
    return put_in_order(bytes(data)) if _has_no_order(circuit) else bytes(data)


@lru_cache(maxsize=4096)
def _parameter(column: int) -> Parameter:
    """Return the parameter of a column: names sort as columns do, which is Qiskit's order."""
    return Parameter(f"p{column:07d}", uuid=uuid.UUID(int=column + 1))


def _call_by_column(circuit: QuantumCircuit) -> None:
    """Call each parameter by its column, in place."""
    parameters = circuit.parameters
    renamed = {p: _parameter(i) for i, p in enumerate(parameters) if p != _parameter(i)}
    wanted = {p.name for p in renamed.values()}
    if any(p.name in wanted for p in parameters):  # two of one name must not meet on the way
        passing = {p: Parameter(f"passing {p.name}") for p in renamed}
        circuit.assign_parameters(passing, inplace=True)
        renamed = {passing[p]: column for p, column in renamed.items()}
    if renamed:
        circuit.assign_parameters(renamed, inplace=True)


def _without_names(circuit: QuantumCircuit, *, name: str = _NAME) -> QuantumCircuit:
    """Return a copy with one register of qubits and nothing that only tells of its making."""
    if _has_plain_wires(circuit):
        copy: QuantumCircuit = circuit.copy(name=name)
        copy.metadata = {}
        copy._layout = None  # noqa: SLF001  # it would travel in the bytes, unread
        return copy
    plain = QuantumCircuit(name=name, global_phase=circuit.global_phase)
    plain.add_bits(circuit.clbits)
    for register in circuit.cregs:
        plain.add_register(register)
    if circuit.num_qubits:
        qubits = QuantumRegister(circuit.num_qubits, free_name(plain, "q"))
        plain.add_register(qubits)
    wire = dict(zip(circuit.qubits, plain.qubits, strict=True))
    move = MoveGate()
    for step in circuit.data:
        placed = step.replace(qubits=[wire[qubit] for qubit in step.qubits])
        if step.is_control_flow():
            blocks = [_without_names(block, name="") for block in step.operation.blocks]
            placed = placed.replace(operation=step.operation.replace_blocks(blocks))
        elif step.name == MOVE:  # read from QPY, its definition has another name
            placed = placed.replace(operation=move)
        plain._append(placed)  # noqa: SLF001  # its wires are known; append() takes tenfold
    return plain


def _has_plain_wires(circuit: QuantumCircuit) -> bool:
    expected = [QuantumRegister(circuit.num_qubits, "q")] if circuit.num_qubits else []
    return (
        circuit.qregs == expected
        and all(circuit.find_bit(bit).index == i for r in circuit.qregs for i, bit in enumerate(r))
        and not any(step.is_control_flow() or step.name == MOVE for step in circuit.data)
    )


def _has_no_order(circuit: QuantumCircuit) -> bool:
    """Whether Qiskit's writer may list something in random order: definitions, or symbols."""
    return _has_symbols(circuit.global_phase) or any(
        any(map(_has_symbols, step.params))
        if step.is_standard_gate()
        else step.name not in ("barrier", "delay", "measure", "reset")
        for step in circuit.data
    )


def _has_symbols(value: object) -> bool:
    return isinstance(value, ParameterExpression) and len(value.parameters) > 1
