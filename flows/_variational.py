"""A variational ground state that grows the excitations it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import Parameter, QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from flows._fermions import Excitation, PauliSum, Problem, Support

__all__ = ["Ansatz", "Block", "GroundState", "Meter", "Plan", "Point", "build", "descend", "solve"]

_Angles = NDArray[np.float64]

_FULL = tuple(float(k) * 2 * np.pi / 5 for k in (1, 2, 3, 4))
_SINGLE = (np.pi / 4, -np.pi / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One parameter of an ansatz: how its energy curve is sampled.

    E(θ + δ) has frequencies 1 and 2, because the generator's eigenvalues are −i, 0 and i: five
    equidistant energies fix it, three for a single Pauli rotation, which has frequency 2 only.
    """

    name: str
    shifts: tuple[float, ...]

    @property
    def slope_noise(self) -> float:
        """Standard error of the slope at δ = 0 by that of each shifted energy."""
        if len(self.shifts) == 2:
            return float(np.sqrt(2))
        at = np.array(self.shifts)
        return float(np.linalg.norm(2 / 5 * (np.sin(at) + 2 * np.sin(2 * at))))

    def curve(self, here: float, shifted: _Angles) -> _Angles:
        """Return (a, b₁, c₁, b₂, c₂) of E(δ) = a + Σ b_f cos fδ + c_f sin fδ, here being E(0)."""
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
        """Return the angles and each shift of the blocks from ``first`` on: (points, blocks)."""
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

    Z on an untouched qubit is +1 and is left out, so the first blocks cost almost nothing. An
    excitation that finds no electrons to move gets no block.
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

    CX from the pivot to the other flipped qubits reduces X^x to a flip of the pivot; CX from the
    qubits of the parity brings that in.
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


_Values = NDArray[np.float64]

# Curvatures (Hartree per rad²) below this are taken for it: states that nearly cross, at
# stretched bonds, do bend as little. With noise, what noise alone can bend is the floor.
_FLATTEST = 0.002
_FLATTEST_PER_PRECISION = 4.0
# Shifted energies only point the way: with twice the standard error each costs a quarter of the
# shots, and they are nearly all that an iteration measures.
_SHIFT_PRECISION = 2.0
# No step changes an angle by more: a rotation by π/2 would already swap the two states.
_LONGEST = 0.6


@dataclass(eq=False, kw_only=True)
class Meter:
    """Measures energies of one Hamiltonian with any BaseEstimatorV2, and counts them.

    precision: standard error of the energy, 0 for exact. tolerance: least step worth taking, in Hartree.
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

    @property
    def shift_precision(self) -> float:
        """Standard error of a shifted energy, 0 for exact."""
        return _SHIFT_PRECISION * self.precision

    def energies(self, circuit: QuantumCircuit, rows: _Values) -> tuple[_Values, float]:
        """Return the energy at every row of angles, and the first one's standard error.

        All rows but the first are its shifts. One job measures all.
        """
        self.evaluations += len(rows)
        parts = [(rows, 0.0)]
        if self.precision:
            parts = [(rows[:1], self.precision), (rows[1:], self.shift_precision)]
        pubs = [(circuit, self.hamiltonian, part, error) for part, error in parts if len(part)]
        found = [one.data for one in self.estimator.run(pubs).result()]
        energies = np.concatenate([np.asarray(d.evs, dtype=np.float64).reshape(-1) for d in found])
        return energies, float(np.ravel(found[0].stds)[0]) if self.precision else 0.0


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
    energies, error = meter.energies(ansatz.circuit, rows)
    curves = ansatz.curves(energies) if slopes else np.zeros((len(angles), 5))
    noise = meter.shift_precision * np.array([block.slope_noise for block in ansatz.blocks])
    return Point(
        angles=angles,
        energy=float(energies[0]),
        std_error=error,
        gradient=_beyond_noise(curves[:, 2] + 2 * curves[:, 4], noise),
        curvature=-curves[:, 1] - 4 * curves[:, 3],
    )


def _beyond_noise(slopes: _Values, noise: _Values) -> _Values:
    """Shrink slopes by what noise alone would make of them; those within it become 0.

    A step along such a slope costs more energy than it gains, for the search starts near a minimum.
    """
    squares = slopes**2
    kept = 1 - np.divide(2 * noise**2, squares, out=np.zeros_like(squares), where=squares > 0)
    return np.asarray(slopes * np.maximum(kept, 0.0))


def descend(meter: Meter, ansatz: Ansatz, angles: _Values) -> Point:
    """Walk to a minimum by BFGS; one iteration is one job with the energy and all its shifts.

    The shifts give curvatures, so the first step is a Newton step. A step that leads up by more
    than noise is shortened. The meter's last iteration measures the energy alone.
    """
    here = _measure(meter, ansatz, angles, slopes=not meter.spent)
    flattest = max(_FLATTEST, _FLATTEST_PER_PRECISION * meter.shift_precision)
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


_GRID = np.linspace(-np.pi, np.pi, 181)
_WAVES = np.array(
    [np.ones_like(_GRID), np.cos(_GRID), np.sin(_GRID), np.cos(2 * _GRID), np.sin(2 * _GRID)]
)
_KICK_SEED = 7
_KICK_RAD = 0.2
_KICK_GAIN = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much work one ground state may take; ``max_iterations`` are jobs of the optimiser.

    precision: standard error in Hartree, 0 for exact. start_gain: Hartree that an excitation must
    promise to start in the ansatz, ``start_most`` at most. grow_gain: gain that adds the best
    ``grow_most``, up to ``largest``; None never does. kicks: pushes off a converged minimum.
    tolerance: expected decrease at which a minimum counts as found.
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

    It starts from the most promising excitations (see `encode`). All parameter shifts are one PUB,
    and so are the curves that choose the next excitations (as ADAPT-VQE does, Grimsley et al.,
    arXiv:1812.11173, with whole curves in place of gradients). Deterministic if the estimator is.
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
    """Return the ansatz with the best of the pool, all scanned at angle 0, and where to start."""
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

    Where bonds break, a minimum along every single excitation can lie millihartrees too high; a few
    at once show the way down. Pools that reach every determinant were not seen to need it.
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
