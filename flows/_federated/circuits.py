"""The variational circuit, run on a QPU for many patients in one broadcast PUB."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flows._federated.models import Circuit
from hpcqc import Qpu

__all__ = ["on_qpu"]

_Values = NDArray[np.float64]


def on_qpu(qpu: Qpu, *, qubits: int, layers: int, shots: int) -> Circuit:
    """Return what measures the mean of Z, the data loaded anew before each layer.

    Its bindings are a patient's angles and the weights, 2 for each qubit and layer.
    """
    if qubits < 2:
        raise ValueError("the circuit has pairs of qubits")
    from qiskit.circuit import ParameterVector, QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp

    angles = ParameterVector("x", qubits)
    weights = ParameterVector("w", 2 * layers * qubits)
    circuit = QuantumCircuit(qubits)
    for layer in range(layers):
        for qubit in range(qubits):
            circuit.ry(angles[qubit], qubit)
        for qubit in range(qubits):
            at = 2 * (layer * qubits + qubit)
            circuit.ry(weights[at], qubit)
        for qubit in range(qubits):
            at = 2 * (layer * qubits + qubit) + 1
            circuit.rzz(weights[at], qubit, (qubit + 1) % qubits)
    for qubit in range(qubits):
        circuit.ry(-math.pi / 2, qubit)
    terms = [
        "".join("Z" if at == qubit else "I" for at in range(qubits)) for qubit in range(qubits)
    ]
    # Less Z is more risk: a turn by the angle x from the equator has the mean sin(x).
    observable = SparsePauliOp(terms, [1 / qubits] * qubits)
    order = [list(circuit.parameters).index(one) for one in (*angles, *weights)]

    def values(bindings: _Values, seed: int) -> _Values:
        sorted_bindings = np.empty_like(bindings)
        sorted_bindings[:, order] = bindings
        estimator = qpu.estimator(precision=1 / math.sqrt(shots), seed=seed)
        found = estimator.run([(circuit, observable, sorted_bindings)]).result()
        return np.asarray(found[0].data.evs, dtype=float)

    return values
