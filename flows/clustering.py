"""A consensus of several clusterings: consistent clusters are chosen on a QPU, beside exact.

k-means, DBSCAN and hierarchical clustering (scikit-learn) propose clusters on Dask workers. Two
that share a point exclude each other; a QPU samples, by QAOA, independent sets of large weight
(Li and Latecki, NIPS 2012), and the best one is the consensus. Its mean silhouette says how good
it is; until that is good enough, the next iteration tries other parameters, near the best
consensus, which stays among the candidates. ``hpcqc run flows.clustering -p name=value …`` takes:

- ``points``: a file with a point per line, one column per coordinate, separated by commas,
  semicolons or tabs; a first line may name the columns, and a last one named label, cluster,
  class or target is only compared. By default 240 generated points.
- ``clusters``: how many there should be, about; by default 3, 5 and 8 are tried first.
- ``iterations`` at most; ``good_enough``: the mean silhouette, -1 to 1, that ends them.
- ``layers`` of the circuits; ``shots`` of each; ``qubits`` of a circuit at most: where more
  candidates depend on each other, the lightest are not asked about.
- ``sample``: how many points, chosen at random, are clustered where there are more; the others
  get the cluster of the nearest. ``seed`` of all that is random.

Distances are Euclidean in the file's own units. Points in no cluster of a choice get the cluster
of the nearest point that has one, in the clusterings compared as well. Beside the keys that
`flows` documents, the result has ``points``, ``dimensions``, ``clusters`` (of the consensus),
``silhouette`` and ``std_error``, ``best_single`` (``name``, ``clusters``, ``silhouette``,
``std_error``), ``difference`` of the two silhouettes with ``difference_std_error``, ``better``
("consensus", "best single" or "neither": within two standard errors), ``iterations`` (see
`Iteration`), ``ratio`` (QAOA's to the exact weight, the worst), ``agreement`` with the file's
labels (adjusted Rand index; ``consensus`` and ``best_single``; None without labels) and
``labels`` (the consensus, in the order of the file; None for more than 10 000 points).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from flows._clustering_picture import Panel, picture
from flows._clusterings import (
    ALGORITHMS,
    Candidates,
    Clustering,
    Method,
    agreement,
    candidates,
    clustered,
    completed,
    joined,
    rated,
    trials,
    useful,
)
from flows._independent_sets import Conflicts, best_set, weight_of
from flows._inputs import InputError, check_whole, require_extra
from flows._points import Points, from_table, generated, nearest, sampled
from flows._set_sampling import (
    MOST_QUBITS,
    Choice,
    QaoaSettings,
    decided,
    qaoa_choice,
    shares,
)
from hpcqc import Qpu, checked_by, classical, fan_out, quantum
from orchestrator.wording import counted

__all__ = [
    "Iteration",
    "Proposal",
    "assess",
    "choose",
    "clustering",
    "exact",
    "propose",
]

_Values = NDArray[np.float64]

_MOST_CLUSTERS = 20
_MOST_LABELS = 10_000
_LEAST_POINTS = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Proposal:
    """What an iteration can choose from. bases: the best clustering by each algorithm."""

    bases: tuple[Clustering, ...]
    found: Candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One iteration, for the record.

    candidates: clusters to choose from, ``left_out`` of them for want of qubits. qubits: of the
    largest circuit, 0 if the choice was free. weight: of the choice, beside the ``exact_weight``
    of the best one. optimal_shots: share of shots that is a best choice of what was asked, in all
    circuits; random_shots: the same for random bits. silhouette: of the consensus, with its
    standard error; exact_silhouette: of the best choice's; best_single: the largest of ``bases``.
    """

    candidates: int
    left_out: int
    qubits: int
    weight: float
    exact_weight: float
    optimal_shots: float
    random_shots: float
    clusters: int
    silhouette: float
    std_error: float
    exact_silhouette: float
    best_single: float
    best_single_std_error: float
    bases: tuple[str, ...]


@classical(nodes=(1, 3))
def propose(coordinates: _Values, tried: Sequence[Method], best: Clustering | None) -> Proposal:
    """Make the clusterings on the workers, and find which of their clusters exclude each other."""
    from functools import partial

    made = fan_out(partial(clustered, coordinates), tried)
    bases = []
    for algorithm in ALGORITHMS:
        ours = [one for one in made if one.algorithm == algorithm and useful(one)]
        bases += [max(ours, key=lambda one: one.silhouette)] if ours else []
    pool = bases if best is None else [*bases, best]
    return Proposal(bases=tuple(bases), found=candidates(coordinates, pool))


@classical
def exact(conflicts: Conflicts) -> tuple[int, ...]:
    """Find the choice of the largest weight."""
    return best_set(conflicts)


@quantum
def choose(qpu: Qpu, conflicts: Conflicts, settings: QaoaSettings) -> Choice:
    """Sample choices on the QPU of this stage, one circuit per component of the conflicts."""
    return qaoa_choice(qpu, conflicts, settings)


@classical
def assess(
    coordinates: _Values, found: Candidates, choices: Sequence[Sequence[int]]
) -> list[Clustering]:
    """Rate the clusterings that choices of candidates make."""
    return [
        rated(coordinates, joined(found, chosen), "consensus", "consensus") for chosen in choices
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Inputs:
    points: Points
    sample: Points


def _checked(given: Mapping[str, Any]) -> _Inputs:
    """Return the points, once all parameters have been found usable."""
    require_extra("clustering", ("sklearn",))
    bounds = {
        "clusters": (2, _MOST_CLUSTERS),
        "iterations": (1, 100),
        "layers": (1, 100),
        "shots": (1, 10**9),
        "qubits": (2, MOST_QUBITS),
        "sample": (_LEAST_POINTS, 20_000),
        "seed": (0, 2**63 - 1),
    }
    check_whole(given, bounds)
    if not (math.isfinite(given["good_enough"]) and -1 <= given["good_enough"] <= 1):
        raise InputError(
            f"good_enough {given['good_enough']}: expected a mean silhouette, from -1 to 1"
        )
    source = given["points"]
    points = generated(given["seed"]) if source is None else from_table(source)
    sample = sampled(points, given["sample"], given["seed"])
    distinct = sample.distinct()
    wanted = max(_LEAST_POINTS, 2 * (given["clusters"] or 0))
    if distinct < wanted:
        raise InputError(
            f"{points.title}: {distinct} different points among the {len(sample)} to cluster; "
            f"expected at least {wanted}; choose more with sample, or fewer clusters"
        )
    return _Inputs(points=points, sample=sample)


@flow
@checked_by(_checked)
def clustering(
    points: str | None = None,
    clusters: int | None = None,
    iterations: int = 3,
    good_enough: float = 0.75,
    layers: int = 3,
    shots: int = 1024,
    qubits: int = 8,
    sample: int = 800,
    seed: int = 1,
) -> dict[str, Any]:
    """Find a consensus of clusterings; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, with file and line where
    there is one, and `MissingExtra` where scikit-learn is not installed.
    """
    inputs = _checked(locals())
    coordinates = inputs.sample.scaled()
    most = inputs.sample.distinct() // 2
    rounds: list[_Round] = []
    for index in range(iterations):
        before = max((one.consensus for one in rounds), key=_silhouette, default=None)
        near = None if before is None else before.clusters
        tried = trials(index, clusters, near, seed, most)
        settings = QaoaSettings(layers=layers, shots=shots, qubits=qubits, seed=seed + index)
        rounds.append(_round(coordinates, tried, before, settings))
        if rounds[-1].consensus.silhouette >= good_enough:
            break
    return _result(inputs, rounds, good_enough)


def _silhouette(clustering: Clustering) -> float:
    return clustering.silhouette


@dataclass(frozen=True, eq=False, kw_only=True)
class _Round:
    """One iteration with its clusterings."""

    bases: tuple[Clustering, ...]
    consensus: Clustering
    record: Iteration


def _round(
    coordinates: _Values, tried: Sequence[Method], best: Clustering | None, settings: QaoaSettings
) -> _Round:
    proposal = propose(coordinates, tried, best)
    conflicts = proposal.found.conflicts
    known = exact.submit(conflicts)
    choice = choose(conflicts, settings)
    chosen, reference = decided(conflicts, choice), known.result()
    consensus, ideal = assess(coordinates, proposal.found, [chosen, reference])
    ours, random = shares(conflicts, choice)
    single = max(proposal.bases, key=_silhouette)
    record = Iteration(
        candidates=len(conflicts.weights),
        left_out=sum(len(part.nodes) - len(part.asked) for part in choice.parts),
        qubits=max((len(part.asked) for part in choice.parts if part.counts), default=0),
        weight=weight_of(conflicts, chosen),
        exact_weight=weight_of(conflicts, reference),
        optimal_shots=ours,
        random_shots=random,
        clusters=consensus.clusters,
        silhouette=consensus.silhouette,
        std_error=consensus.std_error,
        exact_silhouette=ideal.silhouette,
        best_single=single.silhouette,
        best_single_std_error=single.std_error,
        bases=tuple(base.name for base in proposal.bases),
    )
    return _Round(bases=proposal.bases, consensus=consensus, record=record)


def _result(inputs: _Inputs, rounds: Sequence[_Round], good_enough: float) -> dict[str, Any]:
    sample = inputs.sample
    best = max(rounds, key=lambda one: one.consensus.silhouette)
    consensus = best.consensus
    single = max((base for one in rounds for base in one.bases), key=_silhouette)
    gains = consensus.silhouettes - single.silhouettes
    difference = float(gains.mean())
    error = float(gains.std(ddof=1) / math.sqrt(len(gains)))
    better = "neither"
    if abs(difference) > 2 * error:
        better = "consensus" if difference > 0 else "best single"
    labels = completed(sample.scaled(), consensus.labels)
    records = [one.record for one in rounds]
    known = None
    if sample.truth is not None:
        whole = completed(sample.scaled(), single.labels)
        known = {
            "consensus": agreement(labels, sample.truth),
            "best_single": agreement(whole, sample.truth),
        }
    result = {
        "points": len(inputs.points),
        "dimensions": len(inputs.points.axes),
        "clusters": consensus.clusters,
        "silhouette": consensus.silhouette,
        "std_error": consensus.std_error,
        "best_single": {
            "name": single.name,
            "clusters": single.clusters,
            "silhouette": single.silhouette,
            "std_error": single.std_error,
        },
        "difference": difference,
        "difference_std_error": error,
        "better": better,
        "ratio": min(map(_ratio, records)),
        "iterations": [asdict(record) | {"bases": list(record.bases)} for record in records],
        "agreement": known,
        "labels": None,
        "plot": _picture(sample, best, labels, records),
        "table": _table(records),
    }
    if len(inputs.points) <= _MOST_LABELS:
        result["labels"] = nearest(inputs.points, sample, labels).tolist()
    return result | {"summary": _summary(inputs, result, records, good_enough)}


def _ratio(record: Iteration) -> float:
    """Return QAOA's weight to the exact one; 1 if there was nothing to choose from."""
    return record.weight / record.exact_weight if record.exact_weight else 1.0


def _table(records: Sequence[Iteration]) -> dict[str, Any]:
    return {
        "columns": [
            "Iteration",
            "Candidates",
            "Qubits",
            "Weight, QAOA",
            "Weight, exact",
            "Best shots",
            "Best random bits",
            "Consensus silhouette",
            "Best single silhouette",
        ],
        "rows": [
            [
                number,
                record.candidates,
                record.qubits,
                round(record.weight, 2),
                round(record.exact_weight, 2),
                round(record.optimal_shots, 4),
                round(record.random_shots, 6),
                round(record.silhouette, 4),
                round(record.best_single, 4),
            ]
            for number, record in enumerate(records, 1)
        ],
    }


def _summary(
    inputs: _Inputs, result: Mapping[str, Any], records: Sequence[Iteration], good_enough: float
) -> list[str]:
    single, error = result["best_single"], result["difference_std_error"]
    verdicts = {
        "consensus": "the consensus is better",
        "best single": "the best single clustering is better",
        "neither": "no difference beyond two standard errors",
    }
    lines = [
        (
            f"{inputs.points.title}: {counted(len(inputs.points), 'point')} in "
            f"{counted(result['dimensions'], 'dimension')}; "
            f"{counted(len(records), 'iteration')}."
        ),
        (
            f"Consensus: {counted(result['clusters'], 'cluster')}, mean silhouette "
            f"{result['silhouette']:.4f} ± {result['std_error']:.4f}. Best single clustering: "
            f"{single['name']}, {single['silhouette']:.4f} ± {single['std_error']:.4f}."
        ),
        (
            f"Consensus minus best single {result['difference']:+.4f} ± {error:.4f}: "
            f"{verdicts[result['better']]}."
        ),
        (
            f"QAOA reached the exact largest weight in "
            f"{sum(_ratio(r) > 1 - 1e-9 for r in records)} of "
            f"{counted(len(records), 'iteration')}; the lowest share of it was "
            f"{result['ratio']:.4f}."
        ),
    ]
    if max(record.silhouette for record in records) < good_enough:
        lines.append(
            f"No consensus reached the silhouette of {good_enough:g} that ends the search."
        )
    if result["agreement"] is not None:
        known = result["agreement"]
        lines.append(
            "Adjusted Rand index with the labels given: consensus "
            f"{known['consensus']:.4f}, best single {known['best_single']:.4f}."
        )
    if any(record.left_out for record in records):
        most = max(record.left_out for record in records)
        lines.append(
            f"Up to {counted(most, 'candidate')} of an iteration did not fit the circuits "
            "or could not improve the choice, and the QPU was not asked about them."
        )
    if len(inputs.sample) < len(inputs.points):
        lines.append(
            f"All numbers are of {len(inputs.sample)} points chosen at random; each other point "
            "got the cluster of the nearest of them."
        )
    return lines


def _picture(
    sample: Points, best: _Round, labels: NDArray[np.int64], records: Sequence[Iteration]
) -> str:
    coordinates = sample.scaled()
    panels = [
        Panel(
            title=f"{base.name}: {base.silhouette:.3f}", labels=completed(coordinates, base.labels)
        )
        for base in best.bases
    ]
    title = f"Consensus, {best.consensus.clusters} clusters: {best.consensus.silhouette:.3f}"
    panels.append(Panel(title=title, labels=labels))
    curves = {
        "consensus": [(record.silhouette, record.std_error) for record in records],
        "best single": [(record.best_single, record.best_single_std_error) for record in records],
        "exact choice": [(record.exact_silhouette, 0.0) for record in records],
    }
    shares = {
        "QAOA": [record.optimal_shots for record in records],
        "random bits": [record.random_shots for record in records],
    }
    return picture(sample, panels, curves, shares)
