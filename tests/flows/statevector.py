"""An estimator for circuits of H, RX, RY, RZ, RZZ and CX: all rows of a PUB at once, exact or noisy."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from qiskit import QuantumCircuit


def amplitudes(circuit: QuantumCircuit, rows: np.ndarray) -> np.ndarray:
    """Return the state for every row of parameter values; shape (states, rows)."""
    index = np.arange(2**circuit.num_qubits)
    state = np.zeros((len(index), len(rows)), dtype=complex)
    state[0] = 1
    for instruction in circuit.data:
        name, qubits = (
            instruction.operation.name,
            [circuit.find_bit(q).index for q in instruction.qubits],
        )
        bit = (index >> qubits[0]) & 1
        flipped, sign = index ^ (1 << qubits[0]), (2 * bit - 1)[:, None]
        half = np.zeros(len(rows))
        if instruction.operation.params:
            half = _values(circuit, instruction.operation.params[0], rows) / 2
        if name == "cx":
            state = state[index ^ (bit << qubits[1])]
        elif name == "h":
            state = (state[flipped] - sign * state) / np.sqrt(2)
        elif name == "ry":
            state = np.cos(half) * state + sign * np.sin(half) * state[flipped]
        elif name == "rx":
            state = np.cos(half) * state - 1j * np.sin(half) * state[flipped]
        elif name == "rz":
            state = np.exp(1j * half * sign) * state
        elif name == "rzz":
            parity = 1 - 2 * (bit ^ ((index >> qubits[1]) & 1))[:, None]
            state = np.exp(-1j * half * parity) * state
        else:
            raise NotImplementedError(name)
    return state


def _values(circuit: QuantumCircuit, angle: Any, rows: np.ndarray) -> np.ndarray:
    if not hasattr(angle, "parameters") or not angle.parameters:
        return np.full(len(rows), float(angle))
    (parameter,) = angle.parameters  # every angle here is a multiple of one parameter
    column = list(circuit.parameters).index(parameter)
    return float(angle.bind({parameter: 1.0})) * rows[:, column]


class Estimator:
    """What a quantum stage uses of a BaseEstimatorV2, and a record of what it was sent.

    A precision above 0 adds normal noise of that width, as Aer's estimator does.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.pubs: list[int] = []
        self.precisions: list[float] = []
        self._rng = np.random.default_rng(seed)

    def run(self, pubs: Sequence[Any]) -> Any:
        results = []
        for circuit, observable, rows, precision in pubs:
            self.pubs.append(len(rows))
            self.precisions.append(precision)
            state = amplitudes(circuit, np.asarray(rows, dtype=float))
            values = np.einsum("ij,ij->j", state.conj(), observable.to_matrix(sparse=True) @ state)
            noise = self._rng.normal(scale=precision, size=len(rows)) if precision else 0.0
            data = SimpleNamespace(evs=values.real + noise, stds=np.full(len(rows), precision))
            results.append(SimpleNamespace(data=data))
        return SimpleNamespace(result=lambda: results)
