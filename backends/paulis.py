"""Observables as sums of Pauli strings, and which terms one measurement basis reads together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["MeasuredBasis", "PauliSum", "expanded", "measured_bases"]

# Letters of Qiskit's observables: the basis each is read in, and the bit a projector wants.
_AXES = {"X": "X", "Y": "Y", "Z": "Z", "0": "Z", "1": "Z", "+": "X", "-": "X", "r": "Y", "l": "Y"}
_WANTED = {"0": 0, "1": 1, "+": 0, "-": 1, "r": 0, "l": 1}
# The exact range of a sum takes 2^bits evaluations; above, the sum of its weights bounds it.
_EXACT_BITS = 14

_Floats = NDArray[np.float64]
_Bits = NDArray[np.uint8]

PauliSum = dict[str, float]
# Each letter of Qiskit's observables that is not a Pauli, as a sum of Paulis.
_PROJECTORS = {
    "0": (("I", 0.5), ("Z", 0.5)),
    "1": (("I", 0.5), ("Z", -0.5)),
    "+": (("I", 0.5), ("X", 0.5)),
    "-": (("I", 0.5), ("X", -0.5)),
    "r": (("I", 0.5), ("Y", 0.5)),
    "l": (("I", 0.5), ("Y", -0.5)),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredBasis:
    """A measurement setting and the terms it reads.

    qubits, letters: what is measured where, X, Y or Z. parities: shape (terms, qubits), the
    bits whose parity gives a term's sign. wanted, cares: bits that a term's projectors want,
    and which of them. weights: shape (terms, observables).
    half_ranges: half the distance between the largest and smallest value of each observable's
    part read here; 0 where it has none.
    """

    qubits: tuple[int, ...]
    letters: tuple[str, ...]
    parities: _Bits
    wanted: _Bits
    cares: _Bits
    weights: _Floats
    half_ranges: _Floats = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_ranges", self._half_ranges())

    def sums(self, bits: _Bits) -> _Floats:
        """Return each observable's weighted sum for outcomes.

        bits: shape (outcomes, qubits). Returns shape (outcomes, observables).
        """
        wide = bits.astype(np.float64)
        signs = 1.0 - 2.0 * np.mod(wide @ self.parities.T, 2.0)
        if self.cares.any():
            misses = np.abs(wide[:, None, :] - self.wanted) * self.cares
            signs = signs * ~misses.any(axis=2)
        return np.asarray(signs @ self.weights)

    def _half_ranges(self) -> _Floats:
        count = len(self.qubits)
        if count > _EXACT_BITS or self.cares.any():
            projecting = self.cares.any(axis=1)
            reach = np.where(projecting & ~self.parities.any(axis=1), 0.5, 1.0)
            return np.asarray(reach @ np.abs(self.weights))
        outcomes = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        sums = self.sums(outcomes.astype(np.uint8))
        return np.asarray((sums.max(axis=0) - sums.min(axis=0)) / 2)


def measured_bases(
    observables: Sequence[Mapping[str, float]],
) -> tuple[_Floats, list[MeasuredBasis]]:
    """Group the terms of several observables into bases, greedily, heaviest term first.

    Returns the constant part of each observable and the bases. Terms share a basis if on
    every qubit at least one is the identity or both are read along the same axis.
    """
    constants = np.zeros(len(observables))
    weights: dict[str, _Floats] = {}
    for column, observable in enumerate(observables):
        for label, weight in observable.items():
            if set(label) <= {"I"}:
                constants[column] += weight
            elif weight:
                weights.setdefault(label, np.zeros(len(observables)))[column] += weight
    groups: list[tuple[dict[int, str], list[str]]] = []
    for label in sorted(weights, key=lambda name: -np.abs(weights[name]).max()):
        axes = {q: _AXES[c] for q, c in enumerate(reversed(label)) if c != "I"}
        for shared, members in groups:
            if all(shared.get(q, axis) == axis for q, axis in axes.items()):
                shared.update(axes)
                members.append(label)
                break
        else:
            groups.append((axes, [label]))
    return constants, [_basis(axes, members, weights) for axes, members in groups]


def _basis(
    axes: Mapping[int, str], members: Sequence[str], weights: Mapping[str, _Floats]
) -> MeasuredBasis:
    qubits = tuple(sorted(axes))
    letters = [[label[len(label) - 1 - q] for q in qubits] for label in members]
    return MeasuredBasis(
        qubits=qubits,
        letters=tuple(axes[q] for q in qubits),
        parities=np.array([[c in "XYZ" for c in row] for row in letters], dtype=np.uint8),
        wanted=np.array([[_WANTED.get(c, 0) for c in row] for row in letters], dtype=np.uint8),
        cares=np.array([[c in _WANTED for c in row] for row in letters], dtype=np.uint8),
        weights=np.array([weights[label] for label in members]),
    )


def expanded(observable: Mapping[str, float]) -> PauliSum:
    """Write projectors as Paulis and drop terms that cancel."""
    if all(set(label) <= set("IXYZ") for label in observable):
        return dict(observable)
    total: PauliSum = {}
    for label, coefficient in observable.items():
        for letters in itertools.product(*(_PROJECTORS.get(c, ((c, 1.0),)) for c in label)):
            name = "".join(letter for letter, _ in letters)
            weight = coefficient * math.prod(w for _, w in letters)
            total[name] = total.get(name, 0.0) + weight
    return {label: weight for label, weight in total.items() if weight}
