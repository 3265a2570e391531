"""The largest cut of a graph by QAOA, beside the exact or best known one.

A QPU's estimator finds the angles, scanning many in each broadcast PUB; its sampler then gives
cuts, of which the best counts. ``hpcqc run flows.maxcut -p name=value …`` takes:

- ``graph``: ring-10, petersen, mobius-12 (the default) or mobius-16; or a file: an edge list
  (``u v [weight]`` per line), GSet's format (first ``nodes edges``) or DIMACS's (``p edge nodes
  edges``, then ``e u v [weight]``).
- ``layers`` of the circuit; ``shots`` of the final sampling; ``seed`` of simulated sampling and
  of local search.
- ``precision``: standard error of each mean cut on the way, 0 for exact; by default exact where
  the QPU can be, else 5 % of the graph's weight.

Beside the keys that `flows` documents, the result has ``graph``, ``nodes``, ``edges``,
``layers``, ``angles`` (mixers, then phases), ``mean_cut`` (expected), ``best_found`` and
``assignment`` (side 0 or 1 by node name), ``reference`` with ``reference_is`` ("exact" up to 24
nodes, else "best known (local search)"), ``ratio`` (found to reference; None if that is 0),
``history`` (best mean cut per PUB) and ``evaluations`` (mean cuts measured).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from prefect import flow

from flows._graphs import Cut, Graph, best_cut, graph_of
from flows._inputs import InputError
from flows._qaoa import Instance, Ising, Search, Tuned, tune_all
from hpcqc import Qpu, checked_by, classical, quantum
from orchestrator.wording import counted

__all__ = [
    "angles",
    "ising",
    "maxcut",
    "reference",
    "samples",
    "search_for",
    "tune",
]


def ising(graph: Graph) -> Ising:
    """Return the cut as a gain: Σ w (1 − Z_u Z_v) / 2."""
    return Ising(
        fields=(0.0,) * graph.nodes,
        couplings=tuple((u, v, -w / 2) for u, v, w in graph.edges),
        constant=sum(w for _, _, w in graph.edges) / 2,
    )


def tune(estimator: Any, graph: Graph, layers: int, search: Search) -> Tuned:
    """Find angles with a large mean cut; every round is one broadcast PUB."""
    model = ising(graph)
    instance = Instance(
        circuit=model.circuit(layers), gain=model.operator(), layers=layers, search=search
    )
    (tuned,) = tune_all(estimator, [instance])
    return tuned


_SAMPLED_PRECISION = 0.05
_BINS = 24
_RANDOM_CUTS = 4096


@classical
def reference(graph: Graph, seed: int) -> Cut:
    """Find the exact or best known cut."""
    return best_cut(graph, seed)


@quantum
def angles(qpu: Qpu, graph: Graph, layers: int, precision: float | None, seed: int) -> Tuned:
    """Find the circuit's angles on the QPU of this stage."""
    search = search_for("estimator" in qpu.target.payload_kinds, graph, precision)
    with qpu.lease():
        return tune(qpu.estimator(precision=search.precision, seed=seed), graph, layers, search)


@quantum
def samples(qpu: Qpu, graph: Graph, tuned: Tuned, shots: int, seed: int) -> dict[str, int]:
    """Sample cuts at the angles found: how often each bitstring came, node 0 rightmost."""
    circuit = ising(graph).circuit(len(tuned.angles) // 2)
    circuit.measure_all()
    sampler = qpu.sampler(default_shots=shots, seed=seed)
    result = sampler.run([(circuit, np.array(tuned.angles))]).result()
    return dict(result[0].data.meas.get_counts())


def search_for(has_exact: bool, graph: Graph, precision: float | None) -> Search:
    """Return how to look for angles on a QPU that does, or does not, give exact values."""
    if precision is None:
        weight = sum(abs(w) for _, _, w in graph.edges)
        precision = 0.0 if has_exact else _SAMPLED_PRECISION * weight
    if precision:
        return Search(precision=precision, grid=5)
    # Each angle set is a pass over 2^nodes amplitudes.
    return Search() if graph.nodes <= 16 else Search(grid=5, rounds=4)


def _checked(given: Mapping[str, Any]) -> Graph:
    """Return the graph, once all parameters have been found usable."""
    for name in ("layers", "shots"):
        if given[name] < 1:
            raise InputError(f"{name} {given[name]}: expected a whole number ≥ 1")
    precision = given["precision"]
    if precision is not None and not (math.isfinite(precision) and precision >= 0):
        raise InputError(f"precision {precision}: expected a number ≥ 0 (0 is exact)")
    return graph_of(given["graph"])


@flow
@checked_by(_checked)
def maxcut(
    graph: str = "mobius-12",
    layers: int = 2,
    shots: int = 2048,
    precision: float | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Find a large cut; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, with file and line where
    there is one.
    """
    loaded = _checked(locals())
    known = reference.submit(loaded, seed)
    tuned = angles(loaded, layers, precision, seed)
    counts = samples(loaded, tuned, shots, seed)
    return _result(loaded, known.result(), tuned, counts)


def _result(graph: Graph, known: Cut, tuned: Tuned, counts: Mapping[str, int]) -> dict[str, Any]:
    cuts = {bits: graph.cut([int(bit) for bit in reversed(bits)]) for bits in counts}
    best = max(sorted(cuts), key=cuts.__getitem__)
    shots = sum(counts.values())
    mean = sum(cuts[bits] * count for bits, count in counts.items()) / shots
    kind = "exact" if known.is_exact else "best known (local search)"
    ratio = cuts[best] / known.value if known.value else None
    return {
        "graph": graph.title,
        "nodes": graph.nodes,
        "edges": len(graph.edges),
        "layers": len(tuned.angles) // 2,
        "angles": list(tuned.angles),
        "mean_cut": tuned.gain,
        "best_found": cuts[best],
        "assignment": {
            name: int(bit) for name, bit in zip(graph.names, reversed(best), strict=True)
        },
        "reference": known.value,
        "reference_is": kind,
        "ratio": ratio,
        "history": list(tuned.history),
        "evaluations": tuned.evaluations,
        "plot": _plot(graph, cuts, counts),
        "table": {
            "columns": ["Cut", "Weight", "Share of shots"],
            "rows": [
                ["Best sampled", cuts[best], round(_share(cuts, counts, cuts[best]), 4)],
                ["Mean sampled", round(mean, 4), None],
                [kind.capitalize(), known.value, round(_share(cuts, counts, known.value), 4)],
            ],
        },
        "summary": [
            (
                f"{graph.title}: {counted(graph.nodes, 'node')}, "
                f"{counted(len(graph.edges), 'edge')}; {counted(shots, 'shot')}."
            ),
            f"Best cut sampled {cuts[best]:g}, {kind} {known.value:g}.",
        ],
    }


def _share(cuts: Mapping[str, float], counts: Mapping[str, int], value: float) -> float:
    hits = sum(count for bits, count in counts.items() if cuts[bits] >= value - 1e-9)
    return hits / sum(counts.values())


def _plot(graph: Graph, cuts: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, Any]:
    """Show how often a sample is at least so good, beside random sides."""
    rng = np.random.default_rng(0)
    random = np.array([graph.cut(s) for s in rng.integers(0, 2, (_RANDOM_CUTS, graph.nodes))])
    low, high = min(random.min(), *cuts.values()), max(random.max(), *cuts.values())
    levels = sorted({*random.tolist(), *cuts.values()})
    if len(levels) > _BINS:
        levels = np.linspace(low, high, _BINS).tolist()
    return {
        "title": f"Cuts of {graph.title}",
        "x_label": "Weight of the cut",
        "y_label": "Share of samples with at least this weight",
        "x": levels,
        "series": [
            {
                "label": "QAOA",
                "y": [_share(cuts, counts, level) for level in levels],
                "style": "line",
            },
            {
                "label": "Random sides",
                "y": [float((random >= level - 1e-9).mean()) for level in levels],
                "style": "line",
            },
        ],
    }
