"""Delays of circuits: their lengths, their form in QPY, and the idle times between gates (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction, Clbit, Delay, Duration, ParameterExpression, Qubit
from qiskit.circuit.classical import expr
from qiskit.transpiler import Target as QiskitTarget

from backends.errors import PayloadRejected
from backends.gates import with_blocks

if TYPE_CHECKING:
    from backends.api import Target

__all__ = [
    "check_delays",
    "delay_seconds",
    "delays_as_expressions",
    "delays_as_numbers",
    "with_idle_times",
]

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}
# Sums of durations differ in their last digits.
_NO_TIME_S = 1e-15


def delay_seconds(delay: Delay) -> float:
    """Return the length of a delay. Raises `PayloadRejected` where it is not a time in seconds.

    That is: samples (``dt``), an open parameter, a duration that is computed, no finite number.

    >>> delay_seconds(Delay(250, "ns"))
    2.5e-07
    """
    length = delay.duration
    if isinstance(length, ParameterExpression) and not length.parameters:
        length = float(length)
    if delay.unit not in _SECONDS or not isinstance(length, int | float):
        raise PayloadRejected(
            f"a delay of {length} {delay.unit}: its length in seconds is not known; give a number "
            "and one of the units s, ms, us, ns, ps"
        )
    seconds = length * _SECONDS[delay.unit]
    if not 0 <= seconds < math.inf:
        raise PayloadRejected(f"a delay of {length} {delay.unit}; give a finite length ≥ 0")
    return float(seconds)


def check_delays(circuit: QuantumCircuit, target: Target) -> None:
    """Raise `PayloadRejected` for delays in samples on a device without a sample length."""
    device = target.native
    if not isinstance(device, QiskitTarget) or device.dt is not None:
        return
    for step in circuit.data:
        if step.name == "delay" and step.operation.unit == "dt":
            raise PayloadRejected(
                f"a delay of {step.operation.duration} samples (dt), and {target.name} states no "
                "sample length; give a number and one of the units s, ms, us, ns, ps"
            )
        if step.name == "delay":
            delay_seconds(step.operation)
        if step.is_control_flow():
            for block in step.operation.blocks:
                check_delays(block, target)


def delays_as_expressions(circuit: QuantumCircuit) -> QuantumCircuit:
    """Make delays constant expressions: QPY 17 and 18 write ``delay(100, "ns")`` as 100 samples."""
    return _changed(circuit, _expressed)


def delays_as_numbers(circuit: QuantumCircuit) -> QuantumCircuit:
    """Undo `delays_as_expressions`: a constant is whole samples, or a float and its unit."""
    return _changed(circuit, _numbered)


def _changed(circuit: QuantumCircuit, change: Callable[[Delay], Delay]) -> QuantumCircuit:
    if not any(step.name == "delay" or step.is_control_flow() for step in circuit.data):
        return circuit
    changed = circuit.copy_empty_like()
    for step in circuit.data:
        if step.name == "delay":
            new = step.replace(operation=change(step.operation))
        else:
            new = with_blocks(step, lambda block: _changed(block, change))
        changed._append(new)  # noqa: SLF001  # its wires are known; append() takes tenfold
    return changed


def _expressed(delay: Delay) -> Delay:
    if delay.unit not in _SECONDS or not isinstance(delay.duration, int | float):
        return delay
    return Delay(expr.lift(getattr(Duration, delay.unit)(float(delay.duration))))


def _numbered(delay: Delay) -> Delay:
    length = delay.duration
    if isinstance(length, expr.Value):
        return Delay(length.value.value(), length.value.unit())
    if delay.unit in _SECONDS and isinstance(length, int):
        return Delay(float(length), delay.unit)
    return delay


def with_idle_times(circuit: QuantumCircuit, durations_s: Mapping[str, float]) -> QuantumCircuit:
    """Return the circuit with a delay wherever a qubit waits between two of its instructions.

    durations_s: by instruction name, 0 for others. Instructions start as late as they can, a
    block takes no time itself, and within it qubits wait for one another.
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
        timed.append(with_blocks(step, lambda block: with_idle_times(block, durations_s)))
        for qubit, wait_s in after:
            if wait_s > _NO_TIME_S:
                timed.append(Delay(wait_s, "s"), [qubit])
    return timed


def _duration_s(step: CircuitInstruction, durations_s: Mapping[str, float]) -> float:
    if step.name == "delay":
        return delay_seconds(step.operation)
    return durations_s.get(step.name, 0.0)
