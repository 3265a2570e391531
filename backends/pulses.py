"""Rotations about Z written into the phases of pulses: devices with R(θ, φ) need no Z pulses (pure)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction, ParameterExpression
from qiskit.circuit.library import RGate, RZGate

from backends.gates import with_blocks

__all__ = ["absorb_rz"]

# RZ passes through these; directives and delays included.
_TRANSPARENT = frozenset({"barrier", "cp", "crz", "cz", "delay", "id", "p", "rzz", "s", "sdg", "z"})
_TINY = 1e-12
# Instructions made of these take a tenth of what those made of `RGate` and `RZGate` take.
_R, _RZ = RGate._standard_gate, RZGate._standard_gate  # noqa: SLF001  # no public way


def absorb_rz(circuit: QuantumCircuit, *, keep_rz: bool) -> QuantumCircuit:
    """Return the circuit with every ``rx`` written as ``r`` and rotations about Z absorbed.

    Devices whose one-qubit pulse is R(θ, φ) need no Z pulses: RZ(z) followed by R(θ, φ) is
    R(θ, φ - z) followed by RZ(z), and RZ passes through every gate that is diagonal. So each
    rotation about Z moves towards the end, where a measurement does not see it (D. C. McKay et
    al., Phys. Rev. A 96, 022330 (2017)).

    What is left of a rotation before a gate it does not pass through is written as ``rz`` if
    ``keep_rz``, else as two ``r``. A circuit that measures nothing keeps the whole of its
    unitary, up to a global phase; in one that measures, what only turns phases after the last
    gate is dropped, so parameters may vanish. Numeric angles become 0 ≤ θ ≤ π, -π < φ ≤ π.
    """
    return _absorb(circuit, keep_rz=keep_rz, drop_rest=_measures(circuit))


def _absorb(circuit: QuantumCircuit, *, keep_rz: bool, drop_rest: bool) -> QuantumCircuit:
    frames = _Frames(circuit.copy_empty_like(), keep_rz=keep_rz)
    for step in circuit.data:
        qubits = step.qubits
        match step.name:
            case "rz":
                frames.turn(qubits[0], step.params[0])
            case "rx":
                frames.pulse(qubits[0], step.params[0], 0.0)
            case "r":
                frames.pulse(qubits[0], *step.params)
            case "measure" | "reset":
                frames.forget(qubits[0])
                frames.write(step)
            case name if name in _TRANSPARENT:
                frames.write(step)
            case _:
                for qubit in qubits:
                    frames.settle(qubit)
                inside = partial(_absorb, keep_rz=keep_rz, drop_rest=False)
                frames.write(with_blocks(step, inside))
    if not drop_rest:
        for qubit in circuit.qubits:
            frames.settle(qubit)
    return frames.circuit


class _Frames:
    """A circuit being written, and how far each qubit's frame has turned about Z."""

    def __init__(self, circuit: QuantumCircuit, *, keep_rz: bool) -> None:
        self.circuit = circuit
        self._keep_rz = keep_rz
        self._turned: dict[Any, Any] = {}

    def write(self, step: CircuitInstruction) -> None:
        self.circuit._append(step)  # noqa: SLF001  # its wires are known; append() takes tenfold

    def turn(self, qubit: Any, angle: Any) -> None:
        self._turned[qubit] = _number(self._turned.get(qubit, 0.0) + angle)

    def forget(self, qubit: Any) -> None:
        self._turned.pop(qubit, None)

    def pulse(self, qubit: Any, theta: Any, phi: Any) -> None:
        theta, phi = _number(theta), _number(phi - self._turned.get(qubit, 0.0))
        if isinstance(theta, float):
            theta = _wrapped(theta)
            if abs(theta) < _TINY:
                return
            if theta < 0:
                theta, phi = -theta, _number(phi + math.pi)
        if isinstance(phi, float):
            phi = _wrapped(phi)
        self.write(CircuitInstruction.from_standard(_R, (qubit,), [theta, phi]))

    def settle(self, qubit: Any) -> None:
        """Write down what the frame has turned, so that any gate may follow."""
        angle = self._turned.pop(qubit, 0.0)
        if isinstance(angle, float):
            angle = _wrapped(angle)
            if abs(angle) < _TINY:
                return
        if self._keep_rz:
            self.write(CircuitInstruction.from_standard(_RZ, (qubit,), [angle]))
        else:  # R(π, z/2)·R(π, 0) = -RZ(z)
            for phi in (0.0, angle / 2):
                self.write(CircuitInstruction.from_standard(_R, (qubit,), [math.pi, phi]))


def _number(value: Any) -> Any:
    """Return a float for whatever holds no parameter, else the expression."""
    if isinstance(value, ParameterExpression) and value.parameters:
        return value
    return float(value)


def _wrapped(angle: float) -> float:
    """Return the angle in (-π, π]; a turn by 2π changes a global phase alone."""
    wrapped = math.remainder(angle, 2 * math.pi)
    return math.pi if wrapped <= -math.pi + _TINY else wrapped


def _measures(circuit: QuantumCircuit) -> bool:
    return any(
        step.name == "measure"
        or (step.is_control_flow() and any(map(_measures, step.operation.blocks)))
        for step in circuit.data
    )
