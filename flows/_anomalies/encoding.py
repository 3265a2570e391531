"""Numbers as angles of a circuit: what a QPU makes of them, for projected and fidelity kernels.

Projected kernels (Huang et al., Nature Communications 12, 2631, 2021) compare the states of single
qubits: exp(−γ Σ ‖ρ − ρ'‖²), a Gaussian of Bloch vectors, which come from three measurement bases for
each signal. Fidelity kernels (Havlíček et al., Nature 567, 209, 2019) need a circuit for each pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from flows._pauli_axes import TURNS_TO_Z

__all__ = ["Encoding", "FeatureMap", "bloch_vectors", "fidelities"]

Encoding = Literal["reuploading", "zz"]
_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMap:
    """A circuit with an angle for each qubit.

    encoding: "reuploading" turns each qubit by its angle about y and about z in each layer, with
    CZ between neighbours from one layer to the next; "zz" is the map of Havlíček et al., with
    products of neighbouring angles. layers: how often each angle is taken.
    """

    encoding: Encoding
    qubits: int
    layers: int

    def circuit(self, angles: Sequence[Any]) -> QuantumCircuit:
        """Return the circuit of so many angles, numbers or parameters."""
        made = QuantumCircuit(self.qubits)
        for layer in range(self.layers):
            if self.encoding == "zz":
                _add_zz(made, angles)
                continue
            if layer:
                for qubit in range(self.qubits - 1):
                    made.cz(qubit, qubit + 1)
            for qubit, angle in enumerate(angles):
                made.ry(angle, qubit)
                made.rz(angle, qubit)
        return made


def _add_zz(circuit: QuantumCircuit, angles: Sequence[Any]) -> None:
    circuit.h(range(circuit.num_qubits))
    for qubit, angle in enumerate(angles):
        circuit.rz(2 * angle, qubit)
    for qubit in range(circuit.num_qubits - 1):
        circuit.rzz(2 * angles[qubit] * angles[qubit + 1], qubit, qubit + 1)


def bloch_vectors(sampler: Any, encoded: FeatureMap, angles: _Values, shots: int) -> _Values:
    """Measure the Bloch vector of each qubit, in one broadcast PUB.

    Args:
        sampler: of a QPU.
        encoded: how angles become a circuit.
        angles: (points, qubits).
        shots: for each point and basis.

    Returns:
        (points, 3 × qubits): x, y and z of all qubits.
    """
    bases = np.array(list(TURNS_TO_Z.values()))
    points, qubits = angles.shape
    bound = np.concatenate(
        [
            np.broadcast_to(angles[:, np.newaxis], (points, len(bases), qubits)),
            np.broadcast_to(bases, (points, *bases.shape)),
        ],
        axis=2,
    )
    turned, basis = ParameterVector("angle", qubits), ParameterVector("basis", 2)  # in this order
    circuit = encoded.circuit(turned)
    circuit.rx(basis[0], range(qubits))
    circuit.ry(basis[1], range(qubits))
    circuit.measure_all()
    data = sampler.run([(circuit, bound)], shots=shots).result()[0].data.meas
    ones = _bits(data.array, qubits).mean(axis=-2)
    return np.asarray((1.0 - 2.0 * ones).reshape(points, -1))


def _bits(packed: NDArray[np.uint8], qubits: int) -> NDArray[np.uint8]:
    """Return bits (..., qubits) of shots that Qiskit packs big-endian, qubit 0 last."""
    return np.unpackbits(packed, axis=-1)[..., ::-1][..., :qubits]


def fidelities(sampler: Any, encoded: FeatureMap, angles: _Values, shots: int) -> _Values:
    """Measure the fidelity of all pairs of points, in one broadcast PUB.

    The circuit of one point and the inverse of the other's are executed in sequence: the share of
    shots without a 1 is the fidelity.

    Returns:
        (points, points), symmetric, 1 on the diagonal.
    """
    points, qubits = angles.shape
    first, second = np.triu_indices(points, 1)
    bound = np.concatenate([angles[first], angles[second]], axis=1)
    ours, theirs = ParameterVector("a", qubits), ParameterVector("b", qubits)
    circuit = encoded.circuit(ours)
    circuit.compose(encoded.circuit(theirs).inverse(), inplace=True)
    circuit.measure_all()
    data = sampler.run([(circuit, bound)], shots=shots).result()[0].data.meas
    found = np.eye(points)
    found[first, second] = found[second, first] = (~data.array.any(axis=-1)).mean(axis=-1)
    return found
