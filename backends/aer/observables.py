"""Observables of an estimator PUB as Pauli sums that Aer evaluates inside the simulation."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.primitives.containers.observables_array import ObservablesArray

from backends.paulis import PauliSum, expanded, substituted
from backends.profiles import Readout

__all__ = ["ObservableSet", "misread", "observable_set"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservableSet:
    """The distinct observables of a PUB, reduced to the qubits they act on, lowest first.

    index: position in ``sums`` for each element, in the observables' shape.
    """

    qubits: tuple[int, ...]
    sums: tuple[PauliSum, ...]
    index: NDArray[np.int64]

    @property
    def paulis(self) -> list[str]:
        """All strings that occur, each once."""
        return list(dict.fromkeys(itertools.chain.from_iterable(self.sums)))

    def without(self, zeros: Collection[int]) -> ObservableSet:
        """Drop qubits that are in |0⟩, where ⟨I⟩ = ⟨Z⟩ = 1 and ⟨X⟩ = ⟨Y⟩ = 0."""
        if not zeros:
            return self
        places = [len(self.qubits) - 1 - self.qubits.index(qubit) for qubit in zeros]
        sums = []
        for total in self.sums:
            rest: PauliSum = {}
            for label, weight in total.items():
                if all(label[place] in "IZ" for place in places):
                    letters = ["I" if i in places else c for i, c in enumerate(label)]
                    name = "".join(letters)
                    rest[name] = rest.get(name, 0.0) + weight
            sums.append(rest)
        return _narrowed(sums, self.qubits, self.index)

    def weights(self) -> NDArray[np.float64]:
        """Return the coefficients, shape (paulis, sums)."""
        rows = {label: i for i, label in enumerate(self.paulis)}
        matrix = np.zeros((len(rows), len(self.sums)))
        for column, total in enumerate(self.sums):
            for label, weight in total.items():
                matrix[rows[label], column] = weight
        return matrix


def misread(total: PauliSum, readout: Readout) -> PauliSum:
    """Apply readout error P(1|0) = u, P(0|1) = d: a letter becomes (1-u-d)·letter + (d-u)."""
    scale = 1.0 - readout.zero_as_one - readout.one_as_zero
    shift = readout.one_as_zero - readout.zero_as_one
    if not shift:
        return substituted(total, {c: ((c, scale),) for c in "XYZ"})
    return substituted(total, {c: ((c, scale), ("I", shift)) for c in "XYZ"})


def observable_set(observables: Any, readout: Readout | None = None) -> ObservableSet:
    """Collect a PUB's observables (nested lists of {Pauli string: coefficient})."""
    array = ObservablesArray(observables)
    distinct: dict[tuple[tuple[str, float], ...], int] = {}
    index = np.empty(array.shape, dtype=np.int64)
    for place in np.ndindex(*array.shape):
        total = expanded(array[place])
        key = tuple(sorted((misread(total, readout) if readout else total).items()))
        index[place] = distinct.setdefault(key, len(distinct))
    return _narrowed([dict(key) for key in distinct], range(array.num_qubits), index)


def _narrowed(
    sums: Sequence[PauliSum], qubits: Sequence[int], index: NDArray[np.int64]
) -> ObservableSet:
    """Return the set of sums over strings on ``qubits``, on those of them it acts on."""
    labels = {label for total in sums for label in total}
    support = sorted({q for label in labels for q, c in enumerate(reversed(label)) if c != "I"})
    return ObservableSet(
        qubits=tuple(qubits[q] for q in support),
        sums=tuple({_restricted(label, support): w for label, w in t.items()} for t in sums),
        index=index,
    )


def _restricted(label: str, qubits: list[int]) -> str:
    return "".join(label[len(label) - 1 - q] for q in reversed(qubits))
