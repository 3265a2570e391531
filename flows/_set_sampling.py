"""Independent sets of large weight, sampled by QAOA on a QPU of gates: a circuit per component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows._independent_sets import (
    Conflicts,
    best_set,
    components,
    gain,
    largest_within,
    repaired,
    weight_of,
)
from flows._qaoa import Instance, Search, tune_all
from hpcqc import Qpu

__all__ = [
    "MOST_QUBITS",
    "Choice",
    "QaoaSettings",
    "SampledPart",
    "decided",
    "qaoa_choice",
    "shares",
]

_Values = NDArray[np.float64]

MOST_QUBITS = 16
_SAMPLED_PRECISION = 0.05  # of the weight of all candidates in a circuit


@dataclass(frozen=True, slots=True, kw_only=True)
class QaoaSettings:
    """Layers of the circuits, shots of each, qubits of one at most, and the seed of sampling."""

    layers: int
    shots: int
    qubits: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledPart:
    """Nodes that depend on each other, ``asked`` of them on the QPU: counts by bitstring.

    The first asked node is the rightmost bit.
    """

    nodes: tuple[int, ...]
    asked: tuple[int, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the QPU sampled. evaluations: mean gains measured on the way."""

    parts: tuple[SampledPart, ...]
    evaluations: int


def qaoa_choice(qpu: Qpu, conflicts: Conflicts, settings: QaoaSettings) -> Choice:
    """Sample sets on a QPU, one circuit per component of the conflicts with two nodes or more."""
    most = min(settings.qubits, qpu.target.num_qubits or settings.qubits)
    is_exact = "estimator" in qpu.target.payload_kinds
    asked = [
        (part, largest_within(conflicts, part, most))
        for part in components(conflicts)
        if len(part) > 1
    ]
    instances = [
        _instance(conflicts.among(nodes), settings.layers, is_exact)
        for _, nodes in asked
        if len(nodes) > 1
    ]
    counts, evaluations = _sampled(qpu, instances, settings) if instances else ([], 0)
    left = iter(counts)
    parts = (
        SampledPart(nodes=part, asked=nodes, counts=next(left) if len(nodes) > 1 else {})
        for part, nodes in asked
    )
    return Choice(parts=tuple(parts), evaluations=evaluations)


def decided(conflicts: Conflicts, choice: Choice) -> tuple[int, ...]:
    """Return the best choice: of every sample, made consistent; and all that excludes nothing."""
    chosen: list[int] = []
    for part in components(conflicts):
        inner = conflicts.among(part)
        sets = {repaired(inner, picked) for picked in _picked(choice, part)}
        best = max(sorted(sets), key=lambda nodes: weight_of(inner, nodes))
        chosen += [part[node] for node in best]
    return tuple(sorted(chosen))


def shares(conflicts: Conflicts, choice: Choice) -> tuple[float, float]:
    """Return the shares of shots, and of random bits, that are best choices in every circuit."""
    ours = random = 1.0
    for part in choice.parts:
        if not part.counts:
            continue
        asked = conflicts.among(part.asked)
        values = _weights(asked)
        hits = np.flatnonzero(values >= weight_of(asked, best_set(asked)) - 1e-9)
        shots = sum(part.counts.values())
        width = len(part.asked)
        ours *= sum(part.counts.get(f"{hit:0{width}b}", 0) for hit in hits) / shots
        random *= len(hits) / len(values)
    return ours, random


def _sampled(
    qpu: Qpu, instances: Sequence[Instance], settings: QaoaSettings
) -> tuple[list[dict[str, int]], int]:
    """Find all angles, then sample every circuit in one job."""
    with qpu.lease():
        tuned = tune_all(qpu.estimator(seed=settings.seed), instances)
        sampler = qpu.sampler(default_shots=settings.shots, seed=settings.seed)
        pubs = [
            (one.circuit.measure_all(inplace=False), np.array(found.angles))
            for one, found in zip(instances, tuned, strict=True)
        ]
        results = sampler.run(pubs).result()
    counts = [dict(result.data.meas.get_counts()) for result in results]
    return counts, sum(one.evaluations for one in tuned)


def _instance(conflicts: Conflicts, layers: int, is_exact: bool) -> Instance:
    model = gain(conflicts)
    search = Search(rounds=8)
    if not is_exact:
        search = Search(precision=_SAMPLED_PRECISION * sum(conflicts.weights), grid=5)
    return Instance(
        circuit=model.circuit(layers), gain=model.operator(), layers=layers, search=search
    )


def _picked(choice: Choice, nodes: tuple[int, ...]) -> list[list[int]]:
    """Return what was sampled of a component, by places in it."""
    for part in choice.parts:
        if part.nodes == nodes:
            places = [nodes.index(node) for node in part.asked]
            return [
                [place for place, bit in zip(places, reversed(bits), strict=True) if bit == "1"]
                for bits in part.counts or ("1",)  # one asked candidate dominates all others
            ]
    return [[]]


def _weights(conflicts: Conflicts) -> _Values:
    """Return the weight of every set of nodes, by its bits; minus infinity with a conflict."""
    index = np.arange(2 ** len(conflicts.weights))
    values = np.zeros(len(index))
    for node, weight in enumerate(conflicts.weights):
        values += weight * ((index >> node) & 1)
    for u, v in conflicts.edges:
        values[((index >> u) & (index >> v) & 1) == 1] = -np.inf
    return values
