"""Sums of Pauli strings as bit arrays, reduced to the qubits that a state can reach.

A term is c Z^z X^x (X acts first), so a term takes basis state s to s ⊕ x and multiplies it
by c (-1)^(z·(s ⊕ x)); no factors of i are hidden in letters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qiskit.quantum_info import PauliList, SparsePauliOp

__all__ = ["Bits", "PauliSum", "Support"]

Bits = NDArray[np.bool_]

_NEGLIGIBLE = 1e-10  # Hartree; below what integrals of symmetry zero come out as


@dataclass(frozen=True, eq=False, kw_only=True)
class PauliSum:
    """Σ c_k Z^{z_k} X^{x_k}. x, z: shape (terms, qubits); coefficients: shape (terms,)."""

    x: Bits
    z: Bits
    coefficients: NDArray[np.complex128]

    @classmethod
    def of(cls, operator: SparsePauliOp) -> PauliSum:
        """Convert from Qiskit; qubit 0 is column 0."""
        paulis = operator.paulis
        overlap = np.count_nonzero(paulis.x & paulis.z, axis=1)
        phase = (-1j) ** ((paulis.phase + overlap) % 4)
        return cls(x=paulis.x, z=paulis.z, coefficients=operator.coeffs * phase).simplified()

    def simplified(self) -> PauliSum:
        """Merge equal terms and drop negligible ones; the order of terms is canonical."""
        width = self.x.shape[1]
        rows, index = np.unique(np.hstack([self.x, self.z]), axis=0, return_inverse=True)
        sums = np.zeros(len(rows), dtype=complex)
        np.add.at(sums, index.reshape(-1), self.coefficients)
        kept = np.abs(sums) > _NEGLIGIBLE
        rows, sums = rows[kept], sums[kept]
        return PauliSum(x=rows[:, :width], z=rows[:, width:], coefficients=sums)

    def to_qiskit(self) -> SparsePauliOp:
        """Convert to Qiskit, where coefficients multiply Pauli strings."""
        overlap = np.count_nonzero(self.x & self.z, axis=1)
        if len(self.coefficients) == 0:
            return SparsePauliOp("I" * self.x.shape[1], 0.0)
        return SparsePauliOp(
            PauliList.from_symplectic(self.z, self.x), self.coefficients * 1j ** (overlap % 4)
        )

    def element(self, row: Bits, column: Bits) -> complex:
        """Return ⟨row| sum |column⟩ for two basis states given as bits."""
        hits = (self.x == (row ^ column)).all(axis=1)
        signs = 1 - 2 * (np.count_nonzero(self.z[hits] & row, axis=1) % 2)
        return complex(np.sum(self.coefficients[hits] * signs))

    def flips(self) -> Bits:
        """Return the distinct x vectors, in canonical order; shape (count, qubits)."""
        return np.unique(self.x, axis=0)


class Support:
    """The basis states reference ⊕ span(directions), and qubits that label just those.

    A product of exponentials whose x vectors lie in the span, applied to the reference,
    never leaves these states. So one qubit per independent direction carries it exactly;
    expectation values there equal those on all qubits (terms that leave the support
    have none). The reference becomes |0…0⟩. It generalises Z₂ tapering (Bravyi et al.,
    arXiv:1701.08213): directions of the whole Hamiltonian give the same qubits saved.
    """

    def __init__(self, reference: Bits, directions: Iterable[Bits]) -> None:
        """Label with the first independent directions, in order: qubit k flips the k-th."""
        self.reference = reference
        basis: list[Bits] = []
        # Rows of a reduced echelon form, each with the combination of basis vectors it is.
        self._rows: list[tuple[int, Bits, set[int]]] = []
        for direction in directions:
            rest, used = self._reduce(direction)
            if rest.any():
                pivot = int(np.argmax(rest))
                self._rows.append((pivot, rest, used ^ {len(basis)}))
                basis.append(direction)
        self.basis = np.array(basis, dtype=bool).reshape(len(basis), len(reference))

    @property
    def num_qubits(self) -> int:
        """Qubits needed: the number of independent directions."""
        return len(self.basis)

    def _reduce(self, vector: Bits) -> tuple[Bits, set[int]]:
        rest, used = vector.copy(), set[int]()
        for pivot, row, combination in self._rows:
            if rest[pivot]:
                rest ^= row
                used ^= combination
        return rest, used

    def coordinates(self, flip: Bits) -> Bits | None:
        """Return which basis directions add up to ``flip``; None if it leaves the span."""
        rest, used = self._reduce(flip)
        if rest.any():
            return None
        label = np.zeros(self.num_qubits, dtype=bool)
        label[sorted(used)] = True
        return label

    def restrict(self, operator: PauliSum) -> PauliSum:
        """Return the operator between the states of the support, on `num_qubits` qubits."""
        labels = {flip.tobytes(): self.coordinates(flip) for flip in operator.flips()}
        x = [labels[flip.tobytes()] for flip in np.ascontiguousarray(operator.x)]
        kept = np.array([label is not None for label in x], dtype=bool)
        z = operator.z[kept].astype(np.int64)
        signs = 1 - 2 * ((z @ self.reference.astype(np.int64)) % 2)
        return PauliSum(
            x=np.array([v for v in x if v is not None], dtype=bool).reshape(
                len(z), self.num_qubits
            ),
            z=(z @ self.basis.T.astype(np.int64) % 2).astype(bool),
            coefficients=operator.coefficients[kept] * signs,
        ).simplified()
