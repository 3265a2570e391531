"""Circuits of excitations, one RY-and-CX block each, and the shifts that differentiate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import Parameter, QuantumCircuit

from flows._fermions import Excitation
from flows._paulis import PauliSum, Support

__all__ = ["Ansatz", "Block", "build"]

_Angles = NDArray[np.float64]

_FULL = tuple(float(k) * 2 * np.pi / 5 for k in (1, 2, 3, 4))
_SINGLE = (np.pi / 4, -np.pi / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One parameter of an ansatz: how its energy curve is sampled.

    E(θ + δ) has the frequencies 1 and 2 in δ, because the generator's eigenvalues are −i, 0
    and i; energies at five equidistant δ (0 among them) fix it. A block that is a single
    Pauli rotation has frequency 2 only; three energies fix it.
    """

    name: str
    shifts: tuple[float, ...]

    def curve(self, here: float, shifted: _Angles) -> _Angles:
        """Return (a, b₁, c₁, b₂, c₂) of E(δ) = a + Σ b_f cos fδ + c_f sin fδ.

        here: E(0); shifted: the energies at `shifts`, in their order.
        """
        if len(self.shifts) == 2:
            mean = float(shifted[0] + shifted[1]) / 2
            return np.array([mean, 0.0, 0.0, here - mean, float(shifted[0] - shifted[1]) / 2])
        at = np.array([0.0, *self.shifts])
        waves = np.array([np.ones(5), np.cos(at), np.sin(at), np.cos(2 * at), np.sin(2 * at)])
        weights = np.array([1, 2, 2, 2, 2]) / 5
        return np.asarray(weights * (waves @ np.array([here, *shifted])))


@dataclass(frozen=True, eq=False, kw_only=True)
class Ansatz:
    """A circuit from |0…0⟩ with one parameter per block, in the order of ``blocks``."""

    circuit: QuantumCircuit
    blocks: tuple[Block, ...]
    excitations: tuple[Excitation, ...]
    support: Support

    def points(self, angles: _Angles, first: int = 0) -> _Angles:
        """Return the angles and every shifted copy of block ``first`` and those after it.

        Shape (points, blocks): the point itself, then block by block its shifts.
        """
        rows = [angles]
        for index in range(first, len(self.blocks)):
            for shift in self.blocks[index].shifts:
                row = angles.copy()
                row[index] += shift
                rows.append(row)
        return np.array(rows)

    def curves(self, energies: _Angles, first: int = 0) -> _Angles:
        """Return each block's energy curve from the energies at `points`; shape (blocks, 5)."""
        found, at = [], 1
        for block in self.blocks[first:]:
            found.append(block.curve(float(energies[0]), energies[at : at + len(block.shifts)]))
            at += len(block.shifts)
        return np.array(found).reshape(-1, 5)


def build(excitations: Sequence[Excitation], support: Support) -> Ansatz:
    """Write ∏ exp(θ_k (τ_k − τ_k†)), the first rightmost, on the qubits of a support.

    Exact: Z on a qubit that no block has touched yet is +1 and is left out, so the first
    blocks cost almost nothing, and every block is a rotation with controls. An excitation
    that finds none of its electrons where it would move them from gets no block.
    """
    circuit = QuantumCircuit(support.num_qubits)
    touched = np.zeros(support.num_qubits, dtype=bool)
    blocks, acting = [], []
    digits = len(str(len(excitations)))
    for index, excitation in enumerate(excitations):
        flip = support.coordinates(excitation.flip)
        if flip is None:
            raise ValueError(f"excitation {excitation.name} leaves the support")
        whole, reached = support.restrict(excitation.generator), touched | flip
        generator = PauliSum(
            x=whole.x, z=whole.z & reached, coefficients=whole.coefficients
        ).simplified()
        terms = len(generator.coefficients)
        if terms == 0:
            continue
        # A fresh qubit as pivot lets the transpiler cancel most; names are zero-padded, for
        # Qiskit orders parameters by name.
        pivot = int(np.flatnonzero(flip & ~touched if (flip & ~touched).any() else flip)[-1])
        _rotate(circuit, generator, Parameter(f"t{index:0{digits}d}"), pivot)
        touched = reached
        blocks.append(Block(name=excitation.name, shifts=_SINGLE if terms == 1 else _FULL))
        acting.append(excitation)
    return Ansatz(circuit=circuit, blocks=tuple(blocks), excitations=tuple(acting), support=support)


def _rotate(circuit: QuantumCircuit, generator: PauliSum, angle: Parameter, pivot: int) -> None:
    """Append exp(angle · generator); its terms share x, so they become RY with parities.

    CX from the pivot, one of the flipped qubits, to the others turns X^x into a flip of the
    pivot alone, and each term into Y there times a parity of Z; CX from the qubits of the
    parity brings that in.
    """
    others = [q for q in np.flatnonzero(generator.x[0]).tolist() if q != pivot]
    for other in others:
        circuit.cx(pivot, other)
    terms = []
    for z, coefficient in zip(generator.z, generator.coefficients, strict=True):
        # Conjugated by CX(pivot → o): Z_o becomes Z_pivot Z_o. Z X on the pivot is iY.
        on_pivot = bool(z[pivot]) ^ bool(np.count_nonzero(z[others]) % 2)
        if not on_pivot or abs(coefficient.imag) > 1e-9:
            raise ValueError(f"generator of {angle} is not real and antisymmetric")
        parity = frozenset(np.flatnonzero(z).tolist()) - {pivot}
        # exp(θ c iY) = RY(−2 c θ)
        terms.append((parity, -2 * coefficient.real))
    held: frozenset[int] = frozenset()
    while terms:
        terms.sort(key=lambda term: (len(term[0] ^ held), sorted(term[0])))
        parity, scale = terms.pop(0)
        for qubit in sorted(parity ^ held):
            circuit.cx(qubit, pivot)
        held = parity
        circuit.ry(scale * angle, pivot)
    for qubit in sorted(held):
        circuit.cx(qubit, pivot)
    for other in reversed(others):
        circuit.cx(pivot, other)
