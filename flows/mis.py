"""A largest independent set of a graph, on a QPU of gates, an annealer or an array of atoms.

Nodes that share an edge exclude each other; of the rest, as much weight as possible is chosen. The
command differs only in ``--qpu``: a QPU of gates samples sets by QAOA, a circuit for each component
of the graph; an annealer minimises the corresponding quadratic model (Lucas, arXiv:1302.5843, section
4.3); an array of neutral atoms, one for each node, is swept adiabatically into excited states, which
exclude each other at short distance. It represents unit-disk graphs of equal weights alone, whose
coordinates are scaled so that the nearest atoms are as near as it allows, or farther where its laser is too weak to tell
edges from other pairs; a graph for which it has no room then is refused. Every sample is made independent: of the chosen nodes the heavier stay, then whatever
still fits is added. Random sets treated alike show what the QPU contributes, and a classical search
what can be reached. ``hpcqc run flows.mis -p name=value …`` takes:

- ``graph``: ``unit-disk-N`` (N sites of a square lattice, where neighbours and diagonal neighbours
  exclude each other; unit-disk-12 is the default), ``random-N`` (3 neighbours on average),
  ring-10, petersen, mobius-12 or mobius-16; or a file: edges as for flows.maxcut, or a table of
  nodes with the columns ``x`` and ``y``, perhaps ``name`` and ``weight``.
- ``radius``: for a table of nodes, in its unit, µm: nodes nearer than that exclude each other.
- ``shots``: samples, or reads of an annealer.
- ``layers`` and ``qubits``: of QAOA's circuits; where a component has more nodes than ``qubits``,
  dominated nodes and then the lightest are not asked about.
- ``seed`` of what is generated and of simulated sampling.

Beside the keys that `flows` documents, the result has ``graph``, ``nodes``, ``edges``,
``weighted``, ``method`` ("QAOA", "annealing" or "Rydberg blockade"), ``qpu``, ``chosen`` (names of the best set),
``size``, ``weight``, ``reference`` (its weight), ``reference_is`` ("exact" where no component has
more than 40 nodes, else "best known (greedy searches)"), ``ratio``, ``won`` ("QPU", "classical" or
"neither"), ``independent_share`` and ``hit_share`` of the samples as they came (independent; and
with the weight of the reference), ``best_share`` of the samples that, made independent, reach the
reference, ``random_hit_share`` and ``random_best_share`` of random sets, ``mean_ratio`` of the
weights to the reference and ``random_mean_ratio``, ``asked`` (nodes) and ``evaluations`` (mean gains measured for QAOA's angles).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from prefect import flow

from backends.api import Target
from flows._conflict_graphs import ConflictGraph, conflict_graph
from flows._independent_sets import Conflicts, best_set, components, penalties, weight_of
from flows._inputs import InputError, check_whole
from flows._mis_picture import Drawn, picture
from flows._rydberg_sets import check_embedding, sequence, sweep
from flows._set_samples import (
    SetSamples,
    from_choice,
    from_rows,
    greedy_set,
    made_independent,
    random_samples,
)
from flows._set_sampling import MOST_QUBITS, QaoaSettings, qaoa_choice
from hpcqc import BinaryQuadraticModel, Qpu, checked_by, classical, open_qpu, quantum
from orchestrator.wording import counted

__all__ = ["Reference", "Sampled", "model", "reference", "sets"]

_EXACT_UP_TO = 40
_MOST_SHOTS = 100_000
_TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The best set that a classical search found. is_exact: whether there is no better one."""

    nodes: tuple[int, ...]
    weight: float
    is_exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What the QPU sampled. evaluations: mean gains measured on the way. notes: caveats."""

    method: str
    qpu: str
    samples: SetSamples
    evaluations: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    shots: int
    layers: int
    qubits: int
    seed: int


def model(conflicts: Conflicts) -> BinaryQuadraticModel:
    """Return the model whose lowest energy is minus the largest weight, over bits."""
    return BinaryQuadraticModel.of(
        [-weight for weight in conflicts.weights], penalties(conflicts), vartype="BINARY"
    )


@classical
def reference(conflicts: Conflicts, seed: int) -> Reference:
    """Find the largest weight exactly, or, in large graphs, by many greedy searches."""
    is_exact = max(map(len, components(conflicts))) <= _EXACT_UP_TO
    nodes = best_set(conflicts) if is_exact else greedy_set(conflicts, seed)
    return Reference(nodes=nodes, weight=weight_of(conflicts, nodes), is_exact=is_exact)


@quantum
def sets(qpu: Qpu, graph: ConflictGraph, settings: _Settings) -> Sampled:
    """Sample sets on the QPU of this stage, in the way of its paradigm."""
    if "annealing" in qpu.target.payload_kinds:
        return _annealed(qpu, graph, settings)
    if _is_analog(qpu.target):
        return _by_atoms(qpu, graph, settings)
    return _by_gates(qpu, graph, settings)


def _is_analog(target: Target) -> bool:
    return "analog" in target.payload_kinds


def _annealed(qpu: Qpu, graph: ConflictGraph, settings: _Settings) -> Sampled:
    sampler = qpu.annealing_sampler(default_reads=settings.shots, seed=settings.seed)
    (found,) = sampler.run([model(graph.conflicts)]).result()
    return Sampled(
        method="annealing",
        qpu=qpu.name,
        samples=from_rows(found.samples, found.occurrences.tolist()),
    )


def _by_atoms(qpu: Qpu, graph: ConflictGraph, settings: _Settings) -> Sampled:
    chosen = sweep(graph, qpu)
    sampler = qpu.analog_sampler(default_shots=settings.shots, seed=settings.seed)
    (found,) = sampler.run([sequence(chosen, qpu)]).result()
    rows = [[int(outcome) for outcome in outcomes] for outcomes in found.counts]
    return Sampled(
        method="Rydberg blockade",
        qpu=qpu.name,
        samples=from_rows(rows, found.counts.values()),
        notes=chosen.notes,
    )


def _by_gates(qpu: Qpu, graph: ConflictGraph, settings: _Settings) -> Sampled:
    asked = QaoaSettings(
        layers=settings.layers, shots=settings.shots, qubits=settings.qubits, seed=settings.seed
    )
    choice = qaoa_choice(qpu, graph.conflicts, asked)
    return Sampled(
        method="QAOA",
        qpu=qpu.name,
        samples=from_choice(choice, graph.nodes, settings.shots, settings.seed),
        evaluations=choice.evaluations,
    )


def _checked(given: Mapping[str, Any]) -> ConflictGraph:
    """Return the graph, once all parameters have been found usable."""
    bounds = {
        "shots": (1, _MOST_SHOTS),
        "layers": (1, 100),
        "qubits": (2, MOST_QUBITS),
        "seed": (0, 2**63 - 1),
    }
    check_whole(given, bounds)
    radius = given["radius"]
    if radius is not None and not 0 < radius < np.inf:
        raise InputError(f"radius {radius}: expected a number of micrometres above 0")
    return conflict_graph(given["graph"], radius, given["seed"])


@flow
@checked_by(_checked)
def mis(
    graph: str = "unit-disk-12",
    radius: float | None = None,
    shots: int = 1000,
    layers: int = 3,
    qubits: int = 12,
    seed: int = 1,
) -> dict[str, Any]:
    """Find a large independent set; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, with file and line where
    there is one, or for a graph that the QPU cannot represent.
    """
    loaded = _checked(locals())
    qpu = open_qpu()
    if _is_analog(qpu.target):
        check_embedding(loaded, qpu)
    known = reference.submit(loaded.conflicts, seed)
    settings = _Settings(shots=shots, layers=layers, qubits=qubits, seed=seed)
    sampled = sets(loaded, settings)
    return _result(loaded, known.result(), sampled, seed)


def _result(graph: ConflictGraph, known: Reference, sampled: Sampled, seed: int) -> dict[str, Any]:
    ours = made_independent(sampled.samples, graph.conflicts)
    shots = sampled.samples.shots
    drawn_at_random = random_samples(graph.nodes, shots, seed)
    random = made_independent(drawn_at_random, graph.conflicts)
    ratios = _ratios(graph, ours, known.weight)
    random_ratios = _ratios(graph, random, known.weight)
    best = min(ours, key=lambda mask: (-weight_of(graph.conflicts, _members(graph, mask)), mask))
    chosen = _members(graph, best)
    weight = weight_of(graph.conflicts, chosen)
    won = "neither"
    if abs(weight - known.weight) > _TIE * known.weight:
        won = "QPU" if weight > known.weight else "classical"
    kind = "exact" if known.is_exact else "best known (greedy searches)"
    result = {
        "graph": graph.title,
        "nodes": graph.nodes,
        "edges": len(graph.conflicts.edges),
        "weighted": graph.is_weighted,
        "method": sampled.method,
        "qpu": sampled.qpu,
        "chosen": [graph.names[node] for node in chosen],
        "size": len(chosen),
        "weight": weight,
        "reference": known.weight,
        "reference_is": kind,
        "ratio": weight / known.weight,
        "won": won,
        "independent_share": sampled.samples.independent_share(graph.conflicts),
        "hit_share": sampled.samples.independent_share(graph.conflicts, known.weight),
        "random_hit_share": drawn_at_random.independent_share(graph.conflicts, known.weight),
        "best_share": _reaching(ratios),
        "random_best_share": _reaching(random_ratios),
        "mean_ratio": _mean(ratios),
        "random_mean_ratio": _mean(random_ratios),
        "asked": sampled.samples.asked,
        "evaluations": sampled.evaluations,
    }
    drawn = [
        Drawn(title=f"{sampled.method} on {sampled.qpu}: weight {weight:g}", chosen=chosen),
        Drawn(title=f"Classical, {kind}: weight {known.weight:g}", chosen=known.nodes),
    ]
    return result | {
        "plot": picture(graph, drawn, {sampled.method: ratios, "random sets": random_ratios}),
        "table": _table(result),
        "summary": _summary(result, shots, (*graph.notes, *sampled.notes)),
    }


def _members(graph: ConflictGraph, mask: int) -> tuple[int, ...]:
    return tuple(node for node in range(graph.nodes) if mask >> node & 1)


def _ratios(graph: ConflictGraph, found: Mapping[int, int], largest: float) -> dict[float, float]:
    """Return the share of samples by the ratio of their weight to the largest one."""
    shots = sum(found.values())
    ratios: dict[float, float] = {}
    for mask, count in sorted(found.items()):
        ratio = round(weight_of(graph.conflicts, _members(graph, mask)) / largest, 9)
        ratios[ratio] = ratios.get(ratio, 0.0) + count / shots
    return dict(sorted(ratios.items()))


def _reaching(ratios: Mapping[float, float]) -> float:
    return float(sum(share for ratio, share in ratios.items() if ratio >= 1 - _TIE))


def _mean(ratios: Mapping[float, float]) -> float:
    return float(sum(ratio * share for ratio, share in ratios.items()))


def _table(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "columns": ["Way", "Best weight", "Mean ratio", "Reach the reference", "As they came"],
        "rows": [
            [
                f"{result['method']} on {result['qpu']}",
                result["weight"],
                round(result["mean_ratio"], 4),
                round(result["best_share"], 4),
                round(result["hit_share"], 4),
            ],
            [
                "Random sets, made independent",
                None,
                round(result["random_mean_ratio"], 4),
                round(result["random_best_share"], 4),
                round(result["random_hit_share"], 4),
            ],
            [f"Classical, {result['reference_is']}", result["reference"], 1.0, None, None],
        ],
    }


def _summary(result: Mapping[str, Any], shots: int, notes: Sequence[str]) -> list[str]:
    lines = [
        _verdict(result),
        (
            f"{counted(result['nodes'], 'node')}, {counted(result['edges'], 'edge')}; of "
            f"{counted(shots, 'sample')}, {result['independent_share']:.1%} were independent sets as "
            f"they came, and {result['hit_share']:.1%} reached the reference; of random sets, "
            f"{result['random_hit_share']:.1%}."
        ),
        (
            f"Made independent, {result['best_share']:.1%} of the samples reach the reference, of "
            f"random sets {result['random_best_share']:.1%}; mean ratio {result['mean_ratio']:.3f}, "
            f"of random sets {result['random_mean_ratio']:.3f}."
        ),
    ]
    if result["asked"] < result["nodes"]:
        lines.append(
            f"The QPU was asked about {result['asked']} of {result['nodes']} nodes; the others were "
            "added where they fit."
        )
    return [*lines, *notes]


def _verdict(result: Mapping[str, Any]) -> str:
    way = f"{result['method']} on {result['qpu']}"
    search = "the exact search" if result["reference_is"] == "exact" else "greedy searches"
    if result["won"] == "neither":
        return (
            f"Nobody won on graph {result['graph']}: {way} found {counted(result['size'], 'node')} of weight "
            f"{result['weight']:g}, as much as {search}."
        )
    winner, loser = (way, search) if result["won"] == "QPU" else (search, way)
    more, less = sorted([result["weight"], result["reference"]], reverse=True)
    return (
        f"{winner[0].upper()}{winner[1:]} won on {result['graph']}: weight {more:g} against {less:g} "
        f"by {loser}."
    )
