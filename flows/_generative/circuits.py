"""Circuits as sequences of tokens: each token is an excitation with an angle, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp, Statevector

from flows._fermions import Excitation, Problem, Support
from flows._variational import build

__all__ = ["ANGLES", "Vocabulary"]

# Of exp(angle · excitation), also where a better angle is promised.
ANGLES = (-0.2, -0.1, 0.1, 0.2)
# Hartree that an excitation must promise, as in `flows._variational.Plan`.
_LEAST_GAIN = 5e-4
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
        promising = [one for one in problem.excitations if one.gain >= _LEAST_GAIN]
        pool = promising[:_MOST_EXCITATIONS] or list(problem.excitations[:1])
        support = Support(problem.reference, [one.flip for one in pool])
        return cls(
            excitations=tuple(pool),
            support=support,
            hamiltonian=support.restrict(problem.hamiltonian).to_qiskit(),
        )

    @property
    def tokens(self) -> int:
        """How many tokens there are; the last one does nothing, so that circuits may be shorter."""
        return len(self.excitations) * len(ANGLES) + 1

    def acting(self, sequence: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens that do something; equal ones make equal circuits."""
        return tuple(int(token) for token in sequence if token != self.tokens - 1)

    def circuit(self, sequence: Sequence[int]) -> QuantumCircuit:
        """Return the circuit of a sequence, from the reference; the first token acts first."""
        acting = self.acting(sequence)
        chosen = [self.excitations[token // len(ANGLES)] for token in acting]
        angles = [ANGLES[token % len(ANGLES)] for token in acting]
        ansatz = build(chosen, self.support)
        # An excitation that finds nothing to move has no parameter; names carry the place.
        bound = {one: angles[int(one.name[1:])] for one in ansatz.circuit.parameters}
        return ansatz.circuit.assign_parameters(bound)

    def energy(self, sequence: Sequence[int]) -> float:
        """Return the exact energy of a sequence, computed here."""
        state = Statevector(self.circuit(sequence))
        return float(np.real(state.expectation_value(self.hamiltonian)))

    def random(self, count: int, length: int, seed: Sequence[int]) -> NDArray[np.int64]:
        """Return random sequences (count, length), all tokens alike."""
        return np.random.default_rng(list(seed)).integers(0, self.tokens, (count, length))
