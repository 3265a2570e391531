"""QAOA for the largest cut: its circuit, its cost, and the search for its angles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import ParameterVector, QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from flows._graphs import Graph

__all__ = ["Search", "Tuned", "cost", "qaoa_circuit", "ramp", "tune"]

_Angles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How the angles are looked for. precision: standard error of a mean cut; 0 is exact.

    grid: ramps per side of the first scan. rounds: gradient steps after it.
    """

    precision: float = 0.0
    grid: int = 9
    rounds: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The best angles found. mean_cut: expected cut there. history: best mean cut per PUB."""

    angles: tuple[float, ...]
    mean_cut: float
    history: tuple[float, ...]
    evaluations: int


def cost(graph: Graph) -> SparsePauliOp:
    """Return the cut as an observable: Σ w (1 − Z_u Z_v) / 2."""
    terms = [("ZZ", [u, v], -w / 2) for u, v, w in graph.edges]
    constant = sum(w for _, _, w in graph.edges) / 2
    operator = SparsePauliOp.from_sparse_list([*terms, ("", [], constant)], graph.nodes)
    return operator.simplify()


def qaoa_circuit(graph: Graph, layers: int) -> QuantumCircuit:
    """Return the circuit of Farhi et al. (arXiv:1411.4028) with parameters b[k], g[k].

    Angles of the cost layers are in units of the graph's scale (see `_scale`), so that the
    same values suit any weights.
    """
    circuit = QuantumCircuit(graph.nodes)
    mixers, phases = ParameterVector("b", layers), ParameterVector("g", layers)
    scale = _scale(graph)
    circuit.h(range(graph.nodes))
    for layer in range(layers):
        for u, v, weight in graph.edges:
            if weight:
                circuit.rzz(-weight / scale * phases[layer], u, v)
        circuit.rx(2 * mixers[layer], range(graph.nodes))
    return circuit


def _scale(graph: Graph) -> float:
    """Root mean square weight times the root of the mean degree: what a node feels."""
    squares = sum(w * w for _, _, w in graph.edges)
    return math.sqrt(2 * squares / graph.nodes)


def ramp(layers: int, mixer: float, phase: float) -> _Angles:
    """Return angles that fall (mixer) and rise (phase) linearly: an annealing schedule."""
    steps = (np.arange(layers) + 0.5) / layers
    return np.concatenate([mixer * (1 - steps), phase * steps])


class _Means:
    """Measures mean cuts, many angles in one PUB, and keeps count."""

    def __init__(self, estimator: Any, graph: Graph, layers: int, precision: float) -> None:
        self._estimator = estimator
        self._circuit = qaoa_circuit(graph, layers)
        self._cost = cost(graph)
        self._precision = precision
        self.evaluations = 0
        self.history: list[float] = []

    def __call__(self, rows: _Angles) -> _Angles:
        self.evaluations += len(rows)
        pub = (self._circuit, self._cost, rows, self._precision)
        values = np.asarray(self._estimator.run([pub]).result()[0].data.evs, dtype=np.float64)
        self.history.append(max([*self.history[-1:], float(values.max())]))
        return values.reshape(-1)


def tune(estimator: Any, graph: Graph, layers: int, search: Search) -> Tuned:
    """Find angles with a large mean cut; every round is one broadcast PUB.

    First all ramps of a grid, then a finer grid around the best, then, for exact values
    only, gradient steps: central differences and a line of step lengths, a PUB each.
    estimator: any BaseEstimatorV2.
    """
    means = _Means(estimator, graph, layers, search.precision)
    angles, best = _scanned(means, layers, search.grid)
    if not search.precision:
        angles, best = _climbed(means, angles, best, search.rounds)
    return Tuned(
        angles=tuple(float(a) for a in angles),
        mean_cut=best,
        history=tuple(means.history),
        evaluations=means.evaluations,
    )


def _scanned(means: _Means, layers: int, grid: int) -> tuple[_Angles, float]:
    centre, half = np.array([0.75, 1.25]), np.array([0.7, 1.2])
    angles, best = ramp(layers, *centre), -math.inf
    for size in (grid, max(grid // 2, 3)):
        mixers, phases = (
            np.linspace(c - h, c + h, size) for c, h in zip(centre, half, strict=True)
        )
        pairs = [(mixer, phase) for mixer in mixers for phase in phases]
        rows = np.array([ramp(layers, mixer, phase) for mixer, phase in pairs])
        values = means(rows)
        if values.max() > best:
            angles, best = rows[values.argmax()], float(values.max())
            centre = np.array(pairs[values.argmax()])
        half = half / max(grid - 1, 1)
    return angles, best


def _climbed(means: _Means, angles: _Angles, best: float, rounds: int) -> tuple[_Angles, float]:
    width, step = 1e-3, 0.1
    shifts = width * np.eye(len(angles))
    for _ in range(rounds):
        values = means(np.vstack([angles + shifts, angles - shifts]))
        slope = (values[: len(angles)] - values[len(angles) :]) / (2 * width)
        length = float(np.linalg.norm(slope))
        if length <= 1e-3 * abs(best):
            break
        tries = step * np.array([0.25, 0.5, 1.0, 2.0, 4.0])
        rows = angles + np.outer(tries, slope / length)
        values = means(rows)
        if values.max() <= best + 1e-6 * abs(best):
            step /= 8
            continue
        angles, best = rows[values.argmax()], float(values.max())
        step = float(tries[values.argmax()])
    return angles, best
