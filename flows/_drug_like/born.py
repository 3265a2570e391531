"""A Born machine: a circuit whose outcomes are codes, fitted to how often codes are wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import ParameterVector, QuantumCircuit

__all__ = ["born_circuit", "born_parameters", "code_bits", "discrepancy", "frequencies"]

_Values = NDArray[np.float64]
_LAYERS = 3
# How much a code counts as one that differs in one bit.
_LIKENESS = 0.3


def born_parameters(bits: int) -> int:
    """Return how many angles the circuit has."""
    return 3 * _LAYERS * bits


def born_circuit(bits: int) -> QuantumCircuit:
    """Return the circuit: layers of RY and RZ, then RZZ around a ring; at last RX, and all measured."""
    values = iter(ParameterVector("a", born_parameters(bits)))
    circuit = QuantumCircuit(bits)
    for _ in range(_LAYERS):
        for qubit in range(bits):
            circuit.ry(next(values), qubit)
        for qubit in range(bits):
            circuit.rzz(next(values), qubit, (qubit + 1) % bits)
        for qubit in range(bits):
            circuit.rx(next(values), qubit)
    circuit.measure_all()
    return circuit


def frequencies(measured: Any, bits: int) -> _Values:
    """Return how often each code came in each row of a bit array: (rows, 2^bits)."""
    words = np.asarray(measured.array)[..., -1].astype(np.int64).reshape(-1, measured.num_shots)
    rows = [np.bincount(row, minlength=2**bits) / row.size for row in words]
    return np.array(rows)


def code_bits(numbers: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return the bits of codes, the lowest first: (codes, bits)."""
    found: NDArray[np.int64] = numbers[:, None] >> np.arange(bits) & 1
    return found


def discrepancy(found: _Values, wanted: _Values) -> float:
    """Return the squared maximum mean discrepancy of two distributions over codes.

    The kernel is a product over bits: 1 for equal ones, less for different ones.
    """
    apart = found - wanted
    bits = int(np.log2(apart.size))
    smooth = apart.reshape([2] * bits)
    kernel = np.array([[1.0, _LIKENESS], [_LIKENESS, 1.0]])
    for axis in range(bits):
        smooth = np.moveaxis(np.tensordot(kernel, smooth, axes=(1, axis)), 0, axis)
    return float(apart @ smooth.ravel())
