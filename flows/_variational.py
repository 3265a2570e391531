"""A variational ground state with one broadcast estimator PUB per optimiser iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from flows._ansatz import Angles, Ansatz, build
from flows._fermions import Excitation, Problem
from flows._paulis import Support

__all__ = ["GroundState", "Plan", "solve"]

Measured = tuple[NDArray[np.float64], NDArray[np.float64]]

# Curvatures below this (Hartree per rad²) are taken for it; no step changes an angle by more.
_FLAT = 0.1
_LONGEST = 0.6
_GRID = np.linspace(-np.pi, np.pi, 181)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much work one ground state may take.

    precision: standard error asked of every energy, Hartree; 0 asks for exact values.
    max_iterations: optimiser iterations in all, each one PUB. start_gain: excitations that
    promise at least this (Hartree) start in the ansatz, at most ``start_most`` of them.
    grow_gain: after convergence, excitations are added while one still gains this much;
    None never adds any. tolerance: expected decrease at which an optimum counts as found.
    """

    precision: float = 0.0
    max_iterations: int = 150
    start_gain: float = 5e-4
    start_most: int = 24
    grow_gain: float | None = 1e-4
    grow_most: int = 4
    largest: int = 60
    tolerance: float = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundState:
    """What came out. std_error: of the energy, 0 if it is exact. evaluations: energies."""

    energy: float
    std_error: float
    iterations: int
    evaluations: int
    qubits: int
    excitations: tuple[str, ...]
    two_qubit_gates: int
    converged: bool


class _Meter:
    """Measures energies of one Hamiltonian and counts them."""

    def __init__(self, estimator: Any, hamiltonian: SparsePauliOp, precision: float) -> None:
        self._estimator = estimator
        self._hamiltonian = hamiltonian
        self._precision = precision
        self.evaluations = 0
        self.iterations = 0

    def __call__(self, circuit: QuantumCircuit, rows: Angles) -> Measured:
        """Return energies and standard errors of every row, from one PUB."""
        self.evaluations += len(rows)
        pub = (circuit, self._hamiltonian, rows, self._precision)
        data = self._estimator.run([pub]).result()[0].data
        errors = np.asarray(data.stds if self._precision else np.zeros(len(rows)), dtype=float)
        return np.asarray(data.evs, dtype=float).reshape(-1), errors.reshape(-1)


def solve(estimator: Any, problem: Problem, plan: Plan) -> GroundState:
    """Minimise the energy of a product of excitations, growing it while that pays.

    The ansatz starts from the excitations that promise most (see `encode`) at the angles
    they promise it for; every iteration sends the energy and all parameter shifts as one
    PUB; the next excitations are those whose measured energy curves dip lowest, again one
    PUB for all (as ADAPT-VQE does, Grimsley et al., arXiv:1812.11173, with curves in place
    of gradients). estimator: any BaseEstimatorV2.
    """
    promising = [e for e in problem.excitations if e.gain >= plan.start_gain]
    chosen = promising[: plan.start_most] or list(problem.excitations[:1])
    pool = problem.excitations if plan.grow_gain is not None else ()
    support = Support(problem.reference, [e.flip for e in [*chosen, *pool]])
    if support.num_qubits == 0:  # nothing to vary: the reference is the only state
        return _constant(problem, support)
    hamiltonian = support.restrict(problem.hamiltonian).to_qiskit()
    meter = _Meter(estimator, hamiltonian, plan.precision)
    ansatz = build(chosen, support)
    angles = np.array([e.angle for e in ansatz.excitations])
    found = _descend(meter, ansatz, angles, plan)
    while plan.grow_gain is not None and meter.iterations < plan.max_iterations:
        grown = _grow(meter, ansatz, found, plan, pool)
        if grown is None:
            break
        ansatz, angles = grown
        found = _descend(meter, ansatz, angles, plan)
    return GroundState(
        energy=found.energy,
        std_error=found.std_error,
        iterations=meter.iterations,
        evaluations=meter.evaluations,
        qubits=support.num_qubits,
        excitations=tuple(block.name for block in ansatz.blocks),
        two_qubit_gates=int(ansatz.circuit.count_ops().get("cx", 0)),
        converged=found.converged,
    )


def _constant(problem: Problem, support: Support) -> GroundState:
    energy = support.restrict(problem.hamiltonian).coefficients.sum().real
    return GroundState(
        energy=float(energy),
        std_error=0.0,
        iterations=0,
        evaluations=0,
        qubits=0,
        excitations=(),
        two_qubit_gates=0,
        converged=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A point of the search. gradient, curvature: None where only the energy was measured."""

    angles: Angles
    energy: float
    std_error: float
    gradient: Angles
    curvature: Angles
    converged: bool = False


def _measure(meter: _Meter, ansatz: Ansatz, angles: Angles, *, slopes: bool = True) -> _Point:
    rows = ansatz.points(angles) if slopes else angles[np.newaxis]
    energies, errors = meter(ansatz.circuit, rows)
    curves = ansatz.curves(energies) if slopes else np.zeros((len(angles), 5))
    return _Point(
        angles=angles,
        energy=float(energies[0]),
        std_error=float(errors[0]),
        gradient=curves[:, 2] + 2 * curves[:, 4],
        curvature=-curves[:, 1] - 4 * curves[:, 3],
    )


def _descend(meter: _Meter, ansatz: Ansatz, angles: Angles, plan: Plan) -> _Point:
    """Minimise by BFGS from the measured curvatures, in steps of bounded length.

    A step that leads up, by more than noise explains, is halved twice and tried again.
    """
    here = _measure(meter, ansatz, angles)
    hessian = np.diag(np.maximum(np.abs(here.curvature), _FLAT))
    longest, enough = _LONGEST, max(plan.tolerance, 0.02 * plan.precision)
    while meter.iterations < plan.max_iterations:
        step = -np.linalg.solve(hessian, here.gradient)
        if -step @ here.gradient / 2 < enough:
            return replace(here, converged=True)
        step *= min(1.0, longest / float(np.abs(step).max()))
        meter.iterations += 1
        last = meter.iterations == plan.max_iterations
        there = _measure(meter, ansatz, here.angles + step, slopes=not last)
        if there.energy > here.energy + 3 * plan.precision:
            longest = float(np.abs(step).max()) / 4
            continue
        if not last:
            hessian = _updated(hessian, step, there.gradient - here.gradient)
        here, longest = there, _LONGEST
    return here


def _updated(hessian: Angles, step: Angles, change: Angles) -> Angles:
    """Return the BFGS update, or the matrix as it was where it would lose positivity."""
    bend = float(step @ change)
    if bend <= 1e-3 * float(step @ hessian @ step):
        return hessian
    pushed = hessian @ step
    return np.asarray(
        hessian
        + np.outer(change, change) / bend
        - np.outer(pushed, pushed) / float(step @ pushed)
    )


def _grow(
    meter: _Meter, ansatz: Ansatz, found: _Point, plan: Plan, pool: Sequence[Excitation]
) -> tuple[Ansatz, Angles] | None:
    """Return the ansatz with the excitations that lower the energy most, or None.

    The support holds the whole pool, so candidates appended at angle 0 are measured on the
    qubits there are.
    """
    present = len(ansatz.blocks)
    probe = build([*ansatz.excitations, *pool], ansatz.support)
    zeros = np.zeros(len(probe.blocks) - present)
    rows = probe.points(np.concatenate([found.angles, zeros]), first=present)
    energies, _ = meter(probe.circuit, rows)
    waves = np.array(
        [np.ones_like(_GRID), np.cos(_GRID), np.sin(_GRID), np.cos(2 * _GRID), np.sin(2 * _GRID)]
    )
    dips = probe.curves(energies, first=present) @ waves
    gains = energies[0] - dips.min(axis=1)
    room = min(plan.grow_most, plan.largest - present)
    order = np.argsort(-gains.round(9), kind="stable")[: max(room, 0)]
    taken = [k for k in order if gains[k] >= max(plan.grow_gain or 0.0, gains[order[0]] / 10)]
    if not taken:
        return None
    grown = build(
        [*ansatz.excitations, *(probe.excitations[present + k] for k in taken)], ansatz.support
    )
    start = np.zeros(len(grown.blocks))
    start[:present] = found.angles
    start[present] = _GRID[dips[taken[0]].argmin()]
    return grown, start
