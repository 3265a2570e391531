"""Observables as sums of Pauli strings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

__all__ = ["PauliSum", "expanded"]

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
