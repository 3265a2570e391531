"""The tests' own fast estimator agrees with Qiskit's slow one."""

from __future__ import annotations

import numpy as np
from qiskit.circuit import Parameter, QuantumCircuit
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp

from tests.flows.statevector import Estimator


def test_it_agrees_with_qiskit() -> None:
    a, b = Parameter("a"), Parameter("b")
    circuit = QuantumCircuit(3)
    circuit.h([0, 2])
    circuit.ry(2 * a, 1)
    circuit.cx(1, 0)
    circuit.rzz(-0.7 * b, 0, 2)
    circuit.rx(b, 2)
    circuit.rz(1.3 * a, 0)
    circuit.rx(0.4, 1)
    circuit.cx(2, 1)
    observable = SparsePauliOp(["XYZ", "ZIZ", "YIX", "III"], [0.3, 1.0, -0.8, 0.1])
    rows = np.random.default_rng(0).normal(size=(5, 2))
    pub = (circuit, observable, rows, 0.0)
    ours = Estimator().run([pub]).result()[0].data.evs
    np.testing.assert_allclose(ours, StatevectorEstimator().run([pub]).result()[0].data.evs)
