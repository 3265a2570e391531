"""Energies measured through a Qiskit estimator, and how a minimum of them is walked to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from flows._ansatz import Ansatz

__all__ = ["Meter", "Point", "descend"]

_Values = NDArray[np.float64]

# Curvatures (Hartree per rad²) below this are taken for it: states that nearly cross, at
# stretched bonds, do bend as little. With noise, what noise alone can bend is the floor.
_FLATTEST = 0.002
_FLATTEST_PER_PRECISION = 4.0
# No step changes an angle by more: a rotation by π/2 would already swap the two states.
_LONGEST = 0.6


@dataclass(eq=False, kw_only=True)
class Meter:
    """Measures the energy of one Hamiltonian, keeps count, and says when to stop.

    estimator: any BaseEstimatorV2. precision: standard error asked for, 0 for exact values.
    tolerance: a step that promises less (Hartree) is not worth taking.
    """

    estimator: Any
    hamiltonian: SparsePauliOp
    precision: float
    tolerance: float
    max_iterations: int
    iterations: int = field(default=0, init=False)
    evaluations: int = field(default=0, init=False)

    @property
    def spent(self) -> bool:
        """Whether no iteration is left."""
        return self.iterations >= self.max_iterations

    def energies(self, circuit: QuantumCircuit, rows: _Values) -> tuple[_Values, _Values]:
        """Return the energy and its standard error at every row of angles, from one PUB."""
        self.evaluations += len(rows)
        pub = (circuit, self.hamiltonian, rows, self.precision)
        data = self.estimator.run([pub]).result()[0].data
        errors = data.stds if self.precision else np.zeros(len(rows))
        return (
            np.asarray(data.evs, dtype=np.float64).reshape(-1),
            np.asarray(errors, dtype=np.float64).reshape(-1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a search stands. gradient, curvature: per angle, 0 where they were not measured."""

    angles: _Values
    energy: float
    std_error: float
    gradient: _Values
    curvature: _Values
    converged: bool = False


def _measure(meter: Meter, ansatz: Ansatz, angles: _Values, *, slopes: bool = True) -> Point:
    rows = ansatz.points(angles) if slopes else angles[np.newaxis]
    energies, errors = meter.energies(ansatz.circuit, rows)
    curves = ansatz.curves(energies) if slopes else np.zeros((len(angles), 5))
    return Point(
        angles=angles,
        energy=float(energies[0]),
        std_error=float(errors[0]),
        gradient=curves[:, 2] + 2 * curves[:, 4],
        curvature=-curves[:, 1] - 4 * curves[:, 3],
    )


def descend(meter: Meter, ansatz: Ansatz, angles: _Values) -> Point:
    """Walk to a minimum by BFGS; one iteration is one PUB with the energy and all its shifts.

    Curvatures along each angle come with the shifts, so the first step is a Newton step. A
    step that leads up, by more than noise explains, is shortened and tried again. Stops when
    a step would gain less than the tolerance, or with the meter's last iteration, which
    measures the energy alone.
    """
    here = _measure(meter, ansatz, angles, slopes=not meter.spent)
    flattest = max(_FLATTEST, _FLATTEST_PER_PRECISION * meter.precision)
    hessian = np.diag(np.maximum(np.abs(here.curvature), flattest))
    longest = _LONGEST
    while not meter.spent:
        step = -np.linalg.solve(hessian, here.gradient)
        if -step @ here.gradient / 2 < max(meter.tolerance, 0.02 * meter.precision):
            return replace(here, converged=True)
        step *= min(1.0, longest / float(np.abs(step).max()))
        meter.iterations += 1
        there = _measure(meter, ansatz, here.angles + step, slopes=not meter.spent)
        if there.energy > here.energy + 3 * meter.precision:
            longest = float(np.abs(step).max()) / 4
            continue
        if not meter.spent:
            hessian = _updated(hessian, step, there.gradient - here.gradient)
        here, longest = there, _LONGEST
    return here


def _updated(hessian: _Values, step: _Values, change: _Values) -> _Values:
    """Return the BFGS update, or the matrix as it was where it would lose positivity."""
    bend, pushed = float(step @ change), hessian @ step
    before = float(step @ pushed)
    if bend <= 1e-3 * before:
        return hessian
    return np.asarray(hessian + np.outer(change, change) / bend - np.outer(pushed, pushed) / before)
