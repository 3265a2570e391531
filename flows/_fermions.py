"""An active space on qubits: Hamiltonian and excitations as sums of Pauli strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from qiskit.quantum_info import PauliList, SparsePauliOp

from flows._active_space import ActiveSpace

__all__ = ["Bits", "Excitation", "PauliSum", "Prepared", "Problem", "Support", "encode"]

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

    Exponentials whose x vectors lie in the span, applied to the reference |0…0⟩, never leave these
    states, so one qubit per independent direction is exact. It generalises Z₂ tapering (Bravyi et
    al., arXiv:1701.08213): directions of the whole Hamiltonian give the same qubits saved.
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


_Orbital = tuple[bool, int]  # (spin up, number)
_Move = tuple[tuple[_Orbital, ...], tuple[_Orbital, ...]]  # from, to


@dataclass(frozen=True, eq=False, kw_only=True)
class Excitation:
    """A single or double excitation of the reference.

    generator: τ − τ†, with eigenvalues −i, 0 and i. flip: the spin orbitals it changes. angle: of
    the lowest energy of exp(angle · generator) alone; gain: Hartree below the reference, ≥ 0.
    """

    name: str
    generator: PauliSum
    flip: Bits
    angle: float
    gain: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What a quantum stage needs of one geometry: plain arrays, no chemistry library.

    Spin orbitals are qubits: all spin-up ones first, then all spin-down. excitations: best first.
    wider: moves between any orbitals, where excitations of one determinant miss states.
    """

    label: str
    hamiltonian: PauliSum
    reference: Bits
    excitations: tuple[Excitation, ...]
    wider: tuple[Excitation, ...]
    hf_energy: float
    notes: tuple[str, ...] = ()

    @property
    def spin_orbitals(self) -> int:
        """Qubits before any reduction."""
        return len(self.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One geometry, ready for both sides: to be diagonalised, and to be put on qubits."""

    space: ActiveSpace
    problem: Problem


def encode(space: ActiveSpace) -> Problem:
    """Map an active space to qubits with ffsim, and rank its excitations.

    Angles and gains are exact for two states (Epstein-Nesbet), so they stay bounded where
    perturbation theory diverges, at stretched bonds.
    """
    import ffsim

    count = space.orbitals
    molecular = ffsim.MolecularHamiltonian(space.one_body, space.two_body, space.constant)
    hamiltonian = PauliSum.of(
        ffsim.qiskit.jordan_wigner(ffsim.fermion_operator(molecular), norb=count)
    )
    reference = np.zeros(2 * count, dtype=bool)
    reference[: space.nelec[0]] = True
    reference[count : count + space.nelec[1]] = True
    rank = _Ranking(hamiltonian, reference, count)
    excitations = rank.all_of(_excitations(count, space.nelec))
    # With two electrons or two holes, singles and doubles reach every determinant.
    complete = min(sum(space.nelec), 2 * count - sum(space.nelec)) <= 2
    return Problem(
        label=space.label,
        hamiltonian=hamiltonian,
        reference=reference,
        excitations=excitations,
        wider=() if complete else rank.all_of(_moves(count)),
        hf_energy=space.hf_energy,
        notes=space.notes,
    )


def _excitations(count: int, nelec: tuple[int, int]) -> Iterator[_Move]:
    """Yield every single and double excitation that keeps the number of each spin."""
    filled = [[(up, p) for p in range(n)] for up, n in zip((True, False), nelec, strict=True)]
    empty = [[(up, p) for p in range(n, count)] for up, n in zip((True, False), nelec, strict=True)]
    for spin in (0, 1):
        for one, to in product(filled[spin], empty[spin]):
            yield (one,), (to,)
        yield from product(combinations(filled[spin], 2), combinations(empty[spin], 2))
    for up, down, to_up, to_down in product(filled[0], filled[1], empty[0], empty[1]):
        yield (up, down), (to_up, to_down)


def _moves(count: int) -> Iterator[_Move]:
    """Yield every single and double move between different orbitals, each in one direction."""
    for up in (True, False):
        orbitals = [(up, p) for p in range(count)]
        yield from (((one,), (to,)) for one, to in combinations(orbitals, 2))
        for four in combinations(orbitals, 4):
            for one, other in ((0, 1), (0, 2), (0, 3)):
                emptied = (four[one], four[other])
                yield emptied, tuple(o for o in four if o not in emptied)
    for (p, r), (q, s) in product(combinations(range(count), 2), repeat=2):
        yield ((True, p), (False, q)), ((True, r), (False, s))
        yield ((True, p), (False, s)), ((True, r), (False, q))


def _name(move: _Move) -> str:
    return "→".join(",".join(f"{p}{'↑' if up else '↓'}" for up, p in side) for side in move)


def _generator(move: _Move, count: int) -> PauliSum:
    import ffsim

    emptied, filled = move
    create = [(True, up, p) for up, p in filled]
    destroy = [(False, up, p) for up, p in emptied]
    # ffsim's action tuples are (creates, is beta, orbital).
    tau = tuple((action, not up, p) for action, up, p in (*create, *destroy))
    adjoint = tuple((not action, beta, p) for action, beta, p in reversed(tau))
    operator = ffsim.FermionOperator({tau: 1.0, adjoint: -1.0})
    return PauliSum.of(ffsim.qiskit.jordan_wigner(operator, norb=count))


class _Ranking:
    """Judges moves against a Hamiltonian and its reference."""

    def __init__(self, hamiltonian: PauliSum, reference: Bits, count: int) -> None:
        self._hamiltonian = hamiltonian
        self._reference = reference
        self._count = count
        self._lowest = hamiltonian.element(reference, reference).real
        self._reachable = Support(reference, hamiltonian.flips())

    def all_of(self, moves: Iterator[_Move]) -> tuple[Excitation, ...]:
        """Return the moves that symmetry allows, most promising first."""
        found = []
        for move in moves:
            flip = np.zeros(2 * self._count, dtype=bool)
            flip[[p + (0 if up else self._count) for side in move for up, p in side]] = True
            if self._reachable.coordinates(flip) is not None:
                found.append(self._ranked(move, flip))
        return tuple(sorted(found, key=lambda e: (-round(e.gain, 9), e.name)))

    def _ranked(self, move: _Move, flip: Bits) -> Excitation:
        generator = _generator(move, self._count)
        excited = self._reference ^ flip
        sign = generator.element(excited, self._reference).real
        gap = self._hamiltonian.element(excited, excited).real - self._lowest
        # E(θ) = mean − gap/2 · cos 2θ + coupling · sin 2θ; no electron to move: constant
        coupling = sign * self._hamiltonian.element(excited, self._reference).real
        acts = bool(sign)
        return Excitation(
            name=_name(move),
            generator=generator,
            flip=flip,
            angle=float(np.arctan2(-coupling, gap / 2) / 2) if acts else 0.0,
            gain=float(np.hypot(gap / 2, coupling) - gap / 2) if acts else 0.0,
        )
