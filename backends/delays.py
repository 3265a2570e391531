"""Waits of a stated time, which Qiskit's QPY writer would otherwise strip of their unit."""

from __future__ import annotations

from collections.abc import Callable

from qiskit import QuantumCircuit
from qiskit.circuit import Delay, Duration
from qiskit.circuit.classical import expr

__all__ = ["delays_as_expressions", "delays_as_numbers"]

_UNITS = ("s", "ms", "us", "ns", "ps")


def delays_as_expressions(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return a circuit whose waits in seconds, and parts of them, are constant expressions.

    QPY (17 and 18) writes ``delay(100, "ns")`` as a wait of 100 samples; it keeps the unit of an
    expression. A circuit without such waits is returned itself.
    """
    return _changed(circuit, _expressed)


def delays_as_numbers(circuit: QuantumCircuit) -> QuantumCircuit:
    """Undo `delays_as_expressions`: every wait of a constant length is a number and a unit."""
    return _changed(circuit, _numbered)


def _changed(circuit: QuantumCircuit, change: Callable[[Delay], Delay]) -> QuantumCircuit:
    if not any(step.name == "delay" or step.is_control_flow() for step in circuit.data):
        return circuit
    found = False
    changed = circuit.copy_empty_like()
    for step in circuit.data:
        new = step
        if step.name == "delay":
            delay = change(step.operation)
            new = step if delay is step.operation else step.replace(operation=delay)
        elif step.is_control_flow():
            blocks = [_changed(block, change) for block in step.operation.blocks]
            if any(a is not b for a, b in zip(blocks, step.operation.blocks, strict=True)):
                new = step.replace(operation=step.operation.replace_blocks(blocks))
        found |= new is not step
        changed._append(new)  # noqa: SLF001  # its wires are known; append() takes tenfold
    return changed if found else circuit


def _expressed(delay: Delay) -> Delay:
    if delay.unit not in _UNITS or not isinstance(delay.duration, int | float):
        return delay
    return Delay(expr.lift(getattr(Duration, delay.unit)(float(delay.duration))))


def _numbered(delay: Delay) -> Delay:
    """Bring a wait to one form: whole samples, or a float and the unit."""
    length = delay.duration
    if isinstance(length, expr.Value):
        return Delay(length.value.value(), length.value.unit())
    if delay.unit in _UNITS and isinstance(length, int):
        return Delay(float(length), delay.unit)
    return delay
