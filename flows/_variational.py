"""A variational ground state that grows the excitations it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._ansatz import Ansatz, build
from flows._descent import Meter, Point, descend
from flows._fermions import Excitation, Problem
from flows._paulis import Support

__all__ = ["GroundState", "Plan", "solve"]

_GRID = np.linspace(-np.pi, np.pi, 181)
_WAVES = np.array(
    [np.ones_like(_GRID), np.cos(_GRID), np.sin(_GRID), np.cos(2 * _GRID), np.sin(2 * _GRID)]
)
_KICK_SEED = 7
_KICK_RAD = 0.2
_KICK_GAIN = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much work one ground state may take.

    precision: standard error asked of every energy, Hartree; 0 asks for exact values.
    max_iterations: optimiser iterations in all, each one PUB. start_gain: excitations that
    promise at least this (Hartree) start in the ansatz, at most ``start_most`` of them.
    grow_gain: after convergence, the best ``grow_most`` excitations are added while one still
    gains this much, up to ``largest``; None never adds any. kicks: how often a converged
    ansatz is pushed off its minimum to see whether a lower one is near. tolerance: expected
    decrease at which a minimum counts as found.
    """

    precision: float = 0.0
    max_iterations: int = 300
    start_gain: float = 5e-4
    start_most: int = 24
    grow_gain: float | None = 3e-5
    grow_most: int = 4
    largest: int = 60
    kicks: int = 2
    kick_most: int = 6
    tolerance: float = 3e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundState:
    """What came out. std_error: of the energy, 0 if it is exact. evaluations: of the energy."""

    energy: float
    std_error: float
    iterations: int
    evaluations: int
    qubits: int
    excitations: tuple[str, ...]
    two_qubit_gates: int
    converged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    ansatz: Ansatz
    point: Point


def solve(estimator: Any, problem: Problem, plan: Plan) -> GroundState:
    """Minimise the energy of a product of excitations, growing it while that pays.

    The ansatz starts from the excitations that promise most (see `encode`) at the angles
    they promise it for; every iteration sends the energy and all parameter shifts as one
    PUB; the next excitations are those whose measured energy curves dip lowest, again one
    PUB for all (as ADAPT-VQE does, Grimsley et al., arXiv:1812.11173, with whole curves in
    place of gradients). estimator: any BaseEstimatorV2. Deterministic for a deterministic
    estimator.
    """
    promising = [e for e in problem.excitations if e.gain >= plan.start_gain]
    chosen = promising[: plan.start_most] or list(problem.excitations[:1])
    pools = (problem.excitations, problem.wider) if plan.grow_gain is not None else ()
    support = Support(problem.reference, [e.flip for e in chain(chosen, *pools)])
    if support.num_qubits == 0:  # the reference is the only state there is
        return _constant(problem, support)
    meter = Meter(
        estimator=estimator,
        hamiltonian=support.restrict(problem.hamiltonian).to_qiskit(),
        precision=plan.precision,
        tolerance=plan.tolerance,
        max_iterations=plan.max_iterations,
    )
    ansatz = build(chosen, support)
    start = np.array([e.angle for e in ansatz.excitations])
    state = _State(ansatz=ansatz, point=descend(meter, ansatz, start))
    if pools:
        state = _kicked(meter, _grown(meter, state, plan, pools), plan, pools)
    return GroundState(
        energy=state.point.energy,
        std_error=state.point.std_error,
        iterations=meter.iterations,
        evaluations=meter.evaluations,
        qubits=support.num_qubits,
        excitations=tuple(block.name for block in state.ansatz.blocks),
        two_qubit_gates=int(state.ansatz.circuit.count_ops().get("cx", 0)),
        converged=state.point.converged,
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


def _grown(
    meter: Meter, state: _State, plan: Plan, pools: Sequence[Sequence[Excitation]]
) -> _State:
    """Add excitations and minimise again until no pool offers one that pays."""
    waiting = [pool for pool in pools if pool]
    while waiting and not meter.spent:
        longer = _longer(meter, state, plan, waiting[0])
        if longer is None:
            waiting.pop(0)
            continue
        ansatz, start = longer
        state = _State(ansatz=ansatz, point=descend(meter, ansatz, start))
    return state


def _longer(
    meter: Meter, state: _State, plan: Plan, pool: Sequence[Excitation]
) -> tuple[Ansatz, NDArray[np.float64]] | None:
    """Return the ansatz with the best excitations of the pool and where to start, or None.

    All candidates are appended at angle 0, where they change nothing, and scanned together.
    """
    ansatz, angles = state.ansatz, state.point.angles
    present = len(ansatz.blocks)
    probe = build([*ansatz.excitations, *pool], ansatz.support)
    level = np.concatenate([angles, np.zeros(len(probe.blocks) - present)])
    energies, _ = meter.energies(probe.circuit, probe.points(level, first=present))
    dips = probe.curves(energies, first=present) @ _WAVES
    gains = float(energies[0]) - dips.min(axis=1)
    room = max(min(plan.grow_most, plan.largest - present), 0)
    best = np.argsort(-gains.round(9), kind="stable")[:room]
    taken = [k for k in best if gains[k] >= max(plan.grow_gain or 0.0, gains[best[0]] / 10)]
    if not taken:
        return None
    added = [probe.excitations[present + k] for k in taken]
    longer = build([*ansatz.excitations, *added], ansatz.support)
    start = np.zeros(len(longer.blocks))
    start[:present] = angles
    start[present] = _GRID[dips[taken[0]].argmin()]
    return longer, start


def _kicked(
    meter: Meter, state: _State, plan: Plan, pools: Sequence[Sequence[Excitation]]
) -> _State:
    """Look for a lower minimum beside the one found.

    Where bonds break, a state can be a minimum along every single excitation and still lie
    millihartrees too high; a few at once, slightly turned, show the way down. Pools that
    reach every determinant (see `Problem.wider`) were not seen to need it.
    """
    widest = pools[-1]
    rng = np.random.default_rng(_KICK_SEED)
    for _ in range(plan.kicks if widest else 0):
        if meter.spent or len(state.ansatz.blocks) + plan.kick_most > plan.largest:
            break
        few = rng.choice(len(widest), size=min(plan.kick_most, len(widest)), replace=False)
        ansatz = build(
            [*state.ansatz.excitations, *(widest[k] for k in sorted(few))], state.ansatz.support
        )
        start = rng.normal(scale=_KICK_RAD, size=len(ansatz.blocks))
        start[: len(state.point.angles)] = state.point.angles
        other = _State(ansatz=ansatz, point=descend(meter, ansatz, start))
        if other.point.energy < state.point.energy - _KICK_GAIN:
            state = _grown(meter, other, plan, pools)
    return state
