"""Circuits as lists of AQT's operations, with angles in units of π (pure).

The protocol takes R(θ, φ) with 0 ≤ θ ≤ π and 0 ≤ φ ≤ 2π, and RXX(θ) with 0 ≤ θ ≤ π/2. Other
angles are brought into these ranges by identities that hold up to a global phase:

- R(θ + 2π, φ) = R(θ, φ) and R(-θ, φ) = R(θ, φ + π)
- RXX(θ + π) = (X ⊗ X) RXX(θ), where X = R(π, 0)
- RXX(-θ) = (Z ⊗ 1) RXX(θ) (Z ⊗ 1), where Z = RZ(π)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from qiskit import QuantumCircuit

from backends.errors import PayloadRejected
from backends.payloads import SamplerPayload

__all__ = ["MOST_CIRCUITS", "MOST_OPERATIONS", "MOST_SHOTS", "circuits_of", "operations_of"]

# What the protocol itself allows in a circuit and in a job; a site may allow less.
MOST_SHOTS = 2000
MOST_CIRCUITS = 50
MOST_OPERATIONS = 2000

_Operation = dict[str, Any]
# An angle this near to a bound, in units of π, is the bound: sums of floats miss it by that much.
_ROUNDING = 1e-12


def circuits_of(payload: SamplerPayload) -> list[dict[str, Any]]:
    """Return the bound circuits of all PUBs in order, as the server takes them.

    Raises `PayloadRejected` for an instruction that the protocol lacks, and for too many.
    """
    return [
        {
            "repetitions": pub.shots,
            "quantum_circuit": operations,
            "number_of_qubits": max(1, pub.circuit.circuit.num_qubits),
        }
        for pub in payload.pubs
        for operations in _points(pub)
    ]


def _points(pub: Any) -> Iterator[list[_Operation]]:
    circuit = pub.circuit.circuit
    for row in pub.values.reshape(pub.points, pub.values.shape[-1]):
        yield operations_of(circuit.assign_parameters(row) if row.size else circuit)


def operations_of(circuit: QuantumCircuit) -> list[_Operation]:
    """Return a bound circuit in operations, closed by the measurement of all ions.

    Measurements are at its end already, and barriers have no counterpart. Raises
    `PayloadRejected`.

    >>> circuit = QuantumCircuit(2)
    >>> _ = circuit.r(-math.pi / 2, 0, 0)
    >>> operations_of(circuit)[0]
    {'operation': 'R', 'qubit': 0, 'theta': 0.5, 'phi': 1.0}
    """
    number = {qubit: index for index, qubit in enumerate(circuit.qubits)}
    written: list[_Operation] = []
    for step in circuit.data:
        qubits = [number[qubit] for qubit in step.qubits]
        match step.name:
            case "rz":
                (phi,) = _turns(step.operation.params)
                written.append(_rz(qubits[0], phi))
            case "r":
                written.append(_r(qubits[0], *_turns(step.operation.params)))
            case "rxx":
                (theta,) = _turns(step.operation.params)
                written += _rxx(qubits, theta)
            case "barrier" | "measure":
                pass
            case name:
                raise PayloadRejected(
                    f"AQT's protocol has no {name!r}; it has rz, r, rxx and one measurement at the "
                    "end: remove it, or transpile for the target first"
                )
    written.append({"operation": "MEASURE"})
    if len(written) > MOST_OPERATIONS:
        raise PayloadRejected(
            f"the circuit has {len(written)} operations; AQT's protocol takes at most "
            f"{MOST_OPERATIONS}, the measurement included: split it, or optimise it further"
        )
    return written


def _turns(parameters: Any) -> list[float]:
    """Return angles in units of π."""
    return [float(angle) / math.pi for angle in parameters]


def _rz(qubit: int, phi: float) -> _Operation:
    return {"operation": "RZ", "qubit": qubit, "phi": _wrapped(phi)}


def _r(qubit: int, theta: float, phi: float) -> _Operation:
    theta = _wrapped(theta)
    if theta > 1:
        theta, phi = 2 - theta, phi + 1
    return {"operation": "R", "qubit": qubit, "theta": theta, "phi": _wrapped(phi)}


def _rxx(qubits: list[int], theta: float) -> list[_Operation]:
    theta = _wrapped(theta)
    # The nearest multiple of π is taken out as X ⊗ X, or as nothing; ±π/2 at most remains.
    flips = 0.5 + _ROUNDING < theta < 1.5 - _ROUNDING
    rest = theta - 1 if flips else theta if theta < 1 else theta - 2
    gate = {"operation": "RXX", "qubits": qubits, "theta": min(abs(rest), 0.5)}
    mirrors = [_rz(qubits[0], 1.0)] if rest < 0 else []
    turns = [_r(qubit, 1.0, 0.0) for qubit in qubits] if flips else []
    return [*mirrors, gate, *mirrors, *turns]


def _wrapped(angle: float) -> float:
    """Return an angle, in units of π, from 0 to below 2."""
    wrapped = math.fmod(angle, 2.0)
    if wrapped < 0:
        wrapped += 2.0
    return 0.0 if wrapped >= 2.0 - _ROUNDING else wrapped
