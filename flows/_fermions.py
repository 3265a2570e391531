"""An active space on qubits: Hamiltonian and excitations in the Jordan-Wigner encoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from flows._active_space import ActiveSpace
from flows._paulis import Bits, PauliSum, Support

__all__ = ["Excitation", "Problem", "encode"]

_Orbital = tuple[bool, int]  # (spin up, number)
_Move = tuple[tuple[_Orbital, ...], tuple[_Orbital, ...]]  # from, to


@dataclass(frozen=True, eq=False, kw_only=True)
class Excitation:
    """A single or double excitation of the reference.

    generator: τ − τ†, real and antisymmetric, with eigenvalues −i, 0 and i.
    flip: the spin orbitals it changes. angle: where exp(angle · generator), alone on the
    reference, has its lowest energy. gain: how far below the reference that is, Hartree, ≥ 0.
    """

    name: str
    generator: PauliSum
    flip: Bits
    angle: float
    gain: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What a quantum stage needs of one geometry: plain arrays, no chemistry library.

    Spin orbitals are qubits: all spin-up ones first, then all spin-down. reference: the
    determinant with the lowest orbitals filled. excitations: those that the Hamiltonian's
    symmetries allow, most promising first. wider: moves between any orbitals, for states that
    excitations of one determinant cannot reach; empty where they reach all.
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


def encode(space: ActiveSpace) -> Problem:
    """Map an active space to qubits with ffsim, and rank its excitations.

    Angle and gain of an excitation solve its two-state problem with the reference exactly
    (Epstein-Nesbet); they stay bounded where perturbative amplitudes diverge, at stretched
    bonds.
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
