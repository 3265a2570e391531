"""Circuits as sequences of tokens: each token is an excitation with an angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from flows._fermions import Excitation, Problem, Support
from flows._variational import build

__all__ = ["ANGLES", "Vocabulary"]

# Of exp(angle · excitation), also where a better angle is promised.
ANGLES = (-0.4, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.4)
_MOST_EXCITATIONS = 40


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """What circuits for a problem are made of. hamiltonian: on the qubits of the support."""

    excitations: tuple[Excitation, ...]
    support: Support
    hamiltonian: SparsePauliOp

    @classmethod
    def of(cls, problem: Problem) -> Vocabulary:
        """Take the most promising excitations of a problem."""
        pool = list(chain(problem.excitations, problem.wider))[:_MOST_EXCITATIONS]
        support = Support(problem.reference, [one.flip for one in pool])
        return cls(
            excitations=tuple(pool),
            support=support,
            hamiltonian=support.restrict(problem.hamiltonian).to_qiskit(),
        )

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return len(self.excitations) * len(ANGLES)

    def circuit(self, sequence: Sequence[int]) -> QuantumCircuit:
        """Return the circuit of a sequence, from the reference; the first token acts first."""
        chosen = [self.excitations[int(token) // len(ANGLES)] for token in sequence]
        angles = [ANGLES[int(token) % len(ANGLES)] for token in sequence]
        ansatz = build(chosen, self.support)
        # An excitation that finds nothing to move has no parameter; names carry the place.
        bound = {one: angles[int(one.name[1:])] for one in ansatz.circuit.parameters}
        return ansatz.circuit.assign_parameters(bound)

    def random(self, count: int, length: int, seed: Sequence[int]) -> NDArray[np.int64]:
        """Return random sequences (count, length), all tokens alike."""
        return np.random.default_rng(list(seed)).integers(0, self.tokens, (count, length))
