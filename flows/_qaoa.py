"""The angles of QAOA circuits: many are scanned in each broadcast PUB, then improved."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import ParameterVector, QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

__all__ = ["Angles", "Instance", "Ising", "Search", "Tuned", "ramp", "tune_all"]

Angles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ising:
    """A gain to maximise: constant + Σ fields_i Z_i + Σ c Z_u Z_v over couplings (u, v, c)."""

    fields: tuple[float, ...]
    couplings: tuple[tuple[int, int, float], ...]
    constant: float = 0.0

    def operator(self) -> SparsePauliOp:
        """Return the gain as an observable."""
        terms = [("Z", [node], h) for node, h in enumerate(self.fields) if h]
        terms += [("ZZ", [u, v], c) for u, v, c in self.couplings]
        terms.append(("", [], self.constant))
        return SparsePauliOp.from_sparse_list(terms, len(self.fields)).simplify()

    def circuit(self, layers: int) -> QuantumCircuit:
        """Return the circuit of Farhi et al. (arXiv:1411.4028); phases in units of `scale`."""
        nodes = len(self.fields)
        circuit = QuantumCircuit(nodes)
        mixers, phases = ParameterVector("b", layers), ParameterVector("g", layers)
        scale = self.scale()
        circuit.h(range(nodes))
        for layer in range(layers):
            for u, v, c in self.couplings:
                if c:
                    circuit.rzz(2 * c / scale * phases[layer], u, v)
            for node, h in enumerate(self.fields):
                if h:
                    circuit.rz(2 * h / scale * phases[layer], node)
            circuit.rx(2 * mixers[layer], range(nodes))
        return circuit

    def scale(self) -> float:
        """Return twice the root mean square of what a node feels: its field and couplings."""
        squares = sum(h * h for h in self.fields) + 2 * sum(c * c for _, _, c in self.couplings)
        return 2 * math.sqrt(squares / len(self.fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How angles are searched: precision (0 is exact), grid ramps per side, gradient rounds."""

    precision: float = 0.0
    grid: int = 9
    rounds: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A circuit with ``layers`` mixers, then as many phases; what it shall raise; and how."""

    circuit: QuantumCircuit
    gain: SparsePauliOp
    layers: int
    search: Search


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The best angles found. gain: expected there. history: the best gain per PUB."""

    angles: tuple[float, ...]
    gain: float
    history: tuple[float, ...]
    evaluations: int


def ramp(layers: int, mixer: float, phase: float) -> Angles:
    """Return angles that fall (mixer) and rise (phase) linearly: an annealing schedule."""
    steps = (np.arange(layers) + 0.5) / layers
    return np.concatenate([mixer * (1 - steps), phase * steps])


_Steps = Generator[Angles, Angles, tuple[Angles, float]]


@dataclass(eq=False, kw_only=True)
class _Course:
    """One instance on its way: the rows of angles that it asks for next, None at the end."""

    instance: Instance
    steps: _Steps
    rows: Angles | None = None
    found: tuple[Angles, float] = field(default_factory=lambda: (np.zeros(0), -math.inf))
    history: list[float] = field(default_factory=list)
    evaluations: int = 0

    def go_on(self, values: Angles | None) -> None:
        if values is not None:
            self.evaluations += len(values)
            self.history.append(max([*self.history[-1:], float(values.max())]))
        try:
            self.rows = next(self.steps) if values is None else self.steps.send(values)
        except StopIteration as end:
            self.rows, self.found = None, end.value


def tune_all(estimator: Any, instances: Sequence[Instance]) -> list[Tuned]:
    """Find angles with a large gain for each instance; every round is one job, a PUB for each.

    Scan all ramps of a grid, then a finer one around the best, then, for exact values only, take
    gradient steps: central differences and a line of step lengths, a PUB each.
    """
    courses = [_Course(instance=one, steps=_steps(one)) for one in instances]
    for course in courses:
        course.go_on(None)
    while waiting := [course for course in courses if course.rows is not None]:
        pubs = [
            (c.instance.circuit, c.instance.gain, c.rows, c.instance.search.precision)
            for c in waiting
        ]
        for course, result in zip(waiting, estimator.run(pubs).result(), strict=True):
            course.go_on(np.asarray(result.data.evs, dtype=np.float64).reshape(-1))
    return [
        Tuned(
            angles=tuple(float(angle) for angle in course.found[0]),
            gain=course.found[1],
            history=tuple(course.history),
            evaluations=course.evaluations,
        )
        for course in courses
    ]


def _steps(instance: Instance) -> _Steps:
    angles, best = yield from _scanned(instance.layers, instance.search.grid)
    if not instance.search.precision:
        angles, best = yield from _climbed(angles, best, instance.search.rounds)
    return angles, best


def _scanned(layers: int, grid: int) -> _Steps:
    centre, half = np.array([0.75, 1.25]), np.array([0.7, 1.2])
    angles, best = ramp(layers, *centre), -math.inf
    for size in (grid, max(grid // 2, 3)):
        mixers, phases = (
            np.linspace(c - h, c + h, size) for c, h in zip(centre, half, strict=True)
        )
        pairs = [(mixer, phase) for mixer in mixers for phase in phases]
        rows = np.array([ramp(layers, mixer, phase) for mixer, phase in pairs])
        values = yield rows
        if values.max() > best:
            angles, best = rows[values.argmax()], float(values.max())
            centre = np.array(pairs[values.argmax()])
        half = half / max(grid - 1, 1)
    return angles, best


def _climbed(angles: Angles, best: float, rounds: int) -> _Steps:
    width, step = 1e-3, 0.1
    shifts = width * np.eye(len(angles))
    for _ in range(rounds):
        values = yield np.vstack([angles + shifts, angles - shifts])
        slope = (values[: len(angles)] - values[len(angles) :]) / (2 * width)
        length = float(np.linalg.norm(slope))
        if length <= 1e-3 * abs(best):
            break
        tries = step * np.array([0.25, 0.5, 1.0, 2.0, 4.0])
        rows = angles + np.outer(tries, slope / length)
        values = yield rows
        if values.max() <= best + 1e-6 * abs(best):
            step /= 8
            continue
        angles, best = rows[values.argmax()], float(values.max())
        step = float(tries[values.argmax()])
    return angles, best
