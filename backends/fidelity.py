"""How well a QPU is predicted to run a circuit, from the errors that its target states.

The estimate multiplies the probabilities that each operation succeeds, as if errors were independent
and each spoiled the result: a lower bound on the process fidelity for small errors, good to compare
devices with, not to correct results by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from qiskit import QuantumCircuit
from qiskit.transpiler import Target as QiskitTarget

from backends.api import Target

__all__ = ["DeviceErrors", "circuit_fidelity", "device_errors", "device_fidelity"]

_FREE = frozenset({"barrier", "delay", "id"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceErrors:
    """Medians over a device's qubits and pairs; None where it states nothing."""

    one_qubit: float | None
    two_qubit: float | None
    readout: float | None


def device_errors(target: Target) -> DeviceErrors:
    """Return the median errors that a target states in its Qiskit target, if it has one."""
    native = target.native
    if not isinstance(native, QiskitTarget):
        return DeviceErrors(one_qubit=None, two_qubit=None, readout=None)
    found: dict[str, list[float]] = {"one": [], "two": [], "readout": []}
    for name in native.operation_names:
        for place, properties in (native[name] or {}).items():
            error = getattr(properties, "error", None)
            if place is None or error is None or not 0 <= error <= 1:
                continue
            kind = "readout" if name == "measure" else "one" if len(place) == 1 else "two"
            found[kind].append(error)
    medians = {kind: median(errors) if errors else None for kind, errors in found.items()}
    return DeviceErrors(
        one_qubit=medians["one"], two_qubit=medians["two"], readout=medians["readout"]
    )


def device_fidelity(target: Target, qubits: int) -> float | None:
    """Return the predicted fidelity of a chain that entangles and measures so many qubits.

    The smallest circuit that uses all of them: one gate on each, one on each pair of neighbours, and
    a measurement of each. None if the target states no errors.
    """
    errors = device_errors(target)
    counts = (
        (errors.one_qubit, qubits),
        (errors.two_qubit, qubits - 1),
        (errors.readout, qubits),
    )
    known = [(error, count) for error, count in counts if error is not None]
    return _product(known) if known else None


def circuit_fidelity(circuit: QuantumCircuit, target: Target) -> float | None:
    """Return the predicted fidelity of a circuit that is transpiled for a target; None if unknown."""
    native = target.native
    if not isinstance(native, QiskitTarget) or device_errors(target).two_qubit is None:
        return None
    errors = []
    for step in circuit.data:
        if step.name in _FREE:
            continue
        place = tuple(circuit.find_bit(qubit).index for qubit in step.qubits)
        stated = native[step.name] if step.name in native.operation_names else None
        error = getattr((stated or {}).get(place), "error", None)
        if error is None:
            return None  # it is not transpiled for this target, or has control flow
        errors.append((error, 1))
    return _product(errors)


def _product(errors: Iterable[tuple[float, int]]) -> float:
    logs = [count * math.log1p(-error) if error < 1 else -math.inf for error, count in errors]
    return math.exp(sum(logs))
