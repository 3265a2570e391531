"""Observables as sums of Pauli strings, and the bases in which their terms are measured together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["MeasuredBasis", "PauliSum", "expanded", "measured_bases", "substituted"]

PauliSum = dict[str, float]
# Projectors among the letters of Qiskit's observables: the axis of each, and the bit it wants.
_PROJECTORS = {
    "0": ("Z", 0),
    "1": ("Z", 1),
    "+": ("X", 0),
    "-": ("X", 1),
    "r": ("Y", 0),
    "l": ("Y", 1),
}
_AS_PAULIS = {c: (("I", 0.5), (axis, 0.5 - bit)) for c, (axis, bit) in _PROJECTORS.items()}
# The exact range of a sum takes 2^bits evaluations; above, the sum of its weights bounds it.
_EXACT_BITS = 14

_Floats = NDArray[np.float64]
_Bits = NDArray[np.uint8]


def expanded(observable: Mapping[str, float]) -> PauliSum:
    """Write projectors as Paulis and drop terms that cancel."""
    if all(set(label) <= set("IXYZ") for label in observable):
        return dict(observable)
    return {name: weight for name, weight in substituted(observable, _AS_PAULIS).items() if weight}


def substituted(
    observable: Mapping[str, float], letters: Mapping[str, Sequence[tuple[str, float]]]
) -> PauliSum:
    """Write letters as weighted sums of letters, and multiply out."""
    total: PauliSum = {}
    for label, coefficient in observable.items():
        for chosen in itertools.product(*(letters.get(c, ((c, 1.0),)) for c in label)):
            name = "".join(letter for letter, _ in chosen)
            weight = coefficient * math.prod(w for _, w in chosen)
            total[name] = total.get(name, 0.0) + weight
    return total


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredBasis:
    """A measurement setting and the terms it reads.

    letters: X, Y or Z of each measured qubit. parities: shape (terms, qubits), the bits whose parity
    is a term's sign. wanted, cares: bits that projectors want, and which of them. weights: shape
    (terms, observables). half_ranges: half the distance between each observable's extremes here.
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
        """Return sums of shape (outcomes, observables) for bits of shape (outcomes, qubits)."""
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
    """Group terms into bases, greedily, heaviest first; also return each observable's constant.

    Terms share a basis if on every qubit one is the identity or both use the same axis.
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
        axes = {q: _PROJECTORS.get(c, (c,))[0] for q, c in enumerate(reversed(label)) if c != "I"}
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
    letters = ["".join(label[-1 - q] for q in qubits) for label in members]
    return MeasuredBasis(
        qubits=qubits,
        letters=tuple(axes[q] for q in qubits),
        parities=_table(letters, lambda c: c in "XYZ"),
        wanted=_table(letters, lambda c: c in "1-l"),
        cares=_table(letters, lambda c: c in _PROJECTORS),
        weights=np.array([weights[label] for label in members]),
    )


def _table(letters: Sequence[str], value: Callable[[str], bool]) -> _Bits:
    return np.array([[value(c) for c in row] for row in letters], dtype=np.uint8)
