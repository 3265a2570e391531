"""Clusterings of points by scikit-learn, and the choice among their clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from flows._independent_sets import Conflicts

__all__ = [
    "ALGORITHMS",
    "Candidates",
    "Clustering",
    "Method",
    "agreement",
    "candidates",
    "clustered",
    "completed",
    "joined",
    "rated",
    "silhouettes",
    "trials",
    "useful",
]

_Labels = NDArray[np.int64]
_Values = NDArray[np.float64]

ALGORITHMS = ("k-means", "DBSCAN", "hierarchical")
_LINKAGES = ("ward", "average", "single", "complete")
_REACHES = ((1.5, 2.0, 3.0), (1.2, 1.75, 2.5), (1.35, 2.25, 4.0))
_NEIGHBOURS = 5  # that make a point a core of DBSCAN
_MOST_CLUSTERS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to make a clustering. clusters: how many, 0 for DBSCAN, which has a ``reach`` instead.

    reach: in units of the median distance to the fifth neighbour. linkage: of the hierarchical.
    """

    algorithm: str
    clusters: int = 0
    reach: float = 0.0
    linkage: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Algorithm and parameters, for people."""
        if self.algorithm == "DBSCAN":
            return f"DBSCAN, reach {self.reach:g}"
        kind = f"{self.algorithm} ({self.linkage})" if self.linkage else self.algorithm
        return f"{kind}, {self.clusters} clusters"


@dataclass(frozen=True, eq=False, kw_only=True)
class Clustering:
    """Which cluster each point belongs to, -1 for none. silhouettes: of `completed` labels."""

    name: str
    algorithm: str
    labels: _Labels
    silhouettes: _Values

    @property
    def silhouette(self) -> float:
        """The mean over all points."""
        return float(self.silhouettes.mean())

    @property
    def std_error(self) -> float:
        """Standard error of the mean silhouette, the points being a sample."""
        return float(self.silhouettes.std(ddof=1) / np.sqrt(len(self.silhouettes)))

    @property
    def clusters(self) -> int:
        """How many clusters it has."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """Clusters of several clusterings. members: a row per candidate, whether it has each point."""

    members: NDArray[np.bool_]
    conflicts: Conflicts


def trials(
    iteration: int, clusters: int | None, found: int | None, seed: int, most: int
) -> list[Method]:
    """Return what an iteration, counted from 0, tries: three clusterings by each algorithm.

    clusters: how many there should be, if that is known. found: how many the best consensus of
    earlier iterations has. most: how many there can be.
    """
    centre = clusters or found
    wished = (3, 5, 8) if centre is None else [centre + n for n in (-1, 0, 1)]
    numbers = [min(max(n, 2), most) for n in wished]
    linkage = _LINKAGES[iteration % len(_LINKAGES)]
    return [
        *(
            Method(algorithm="k-means", clusters=n, seed=_seed(seed, iteration, n))
            for n in dict.fromkeys(numbers)
        ),
        *(Method(algorithm="DBSCAN", reach=r) for r in _REACHES[iteration % len(_REACHES)]),
        *(
            Method(algorithm="hierarchical", clusters=n, linkage=linkage)
            for n in dict.fromkeys(numbers)
        ),
    ]


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def clustered(coordinates: _Values, trial: Method) -> Clustering:
    """Cluster points as a trial says."""
    from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans

    with threadpool_limits(1):  # as many trials run at once as there are cores
        if trial.algorithm == "k-means":
            method = KMeans(trial.clusters, n_init=3, random_state=trial.seed)
        elif trial.algorithm == "DBSCAN":
            reach = trial.reach * _typical_distance(coordinates)
            method = DBSCAN(eps=reach, min_samples=_NEIGHBOURS)
        else:
            method = AgglomerativeClustering(trial.clusters, linkage=trial.linkage)
        labels = np.asarray(method.fit_predict(coordinates), dtype=np.int64)
    return rated(coordinates, labels, trial.name, trial.algorithm)


def rated(coordinates: _Values, labels: _Labels, name: str, algorithm: str) -> Clustering:
    """Return a clustering with the silhouettes of all points."""
    whole = completed(coordinates, labels)
    return Clustering(
        name=name, algorithm=algorithm, labels=labels, silhouettes=silhouettes(coordinates, whole)
    )


def _typical_distance(coordinates: _Values) -> float:
    """Return the median distance to the fifth neighbour that is elsewhere."""
    from scipy.spatial import cKDTree

    distinct = np.unique(coordinates, axis=0)
    nearest, _ = cKDTree(distinct).query(distinct, k=min(_NEIGHBOURS + 1, len(distinct)))
    return float(np.median(nearest[:, -1]))


def completed(coordinates: _Values, labels: _Labels) -> _Labels:
    """Give each point without a cluster that of the nearest point with one."""
    from scipy.spatial import cKDTree

    known = labels >= 0
    if known.all() or not known.any():
        return labels
    _, nearest = cKDTree(coordinates[known]).query(coordinates[~known])
    whole = labels.copy()
    whole[~known] = labels[known][nearest]
    return whole


def silhouettes(coordinates: _Values, labels: _Labels) -> _Values:
    """Return each point's silhouette (Rousseeuw 1987); 0 where it is not defined.

    That is where a point is alone in its cluster or in none, and everywhere if there is one
    cluster only.
    """
    from sklearn.metrics import silhouette_samples

    values = np.zeros(len(labels))
    known = labels >= 0
    distinct = len(np.unique(labels[known]))
    if 2 <= distinct < np.count_nonzero(known):
        with threadpool_limits(1):
            values[known] = silhouette_samples(coordinates[known], labels[known])
    return values


def candidates(coordinates: _Values, clusterings: Sequence[Clustering]) -> Candidates:
    """Return the clusters to choose from; two that share a point exclude each other.

    As Li and Latecki (Clustering aggregation as maximum-weight independent set, NIPS 2012), a
    cluster weighs its points times their mean silhouette in its own clustering. Equal clusters
    are one candidate with the largest weight; those that weigh nothing are left out.
    """
    weights: dict[bytes, float] = {}
    rows: dict[bytes, NDArray[np.bool_]] = {}
    for clustering in clusterings:
        values = silhouettes(coordinates, clustering.labels)
        for label in range(clustering.clusters):
            row = clustering.labels == label
            weight = float(values[row].sum())
            if weight > 1e-9:
                rows[row.tobytes()] = row
                weights[row.tobytes()] = max(weight, weights.get(row.tobytes(), 0.0))
    members = np.array(list(rows.values()), dtype=bool).reshape(-1, len(coordinates))
    shared = members.astype(np.int64) @ members.T.astype(np.int64)
    edges = [(int(u), int(v)) for u, v in np.argwhere(np.triu(shared, k=1))]
    conflicts = Conflicts(weights=tuple(weights[key] for key in rows), edges=tuple(edges))
    return Candidates(members=members, conflicts=conflicts)


def joined(found: Candidates, chosen: Sequence[int]) -> _Labels:
    """Return the labels of a choice of candidates without conflicts; -1 for points in none."""
    labels = np.full(found.members.shape[1], -1, dtype=np.int64)
    for label, index in enumerate(chosen):
        labels[found.members[index]] = label
    return labels


def agreement(labels: Sequence[object] | _Labels, truth: Sequence[object] | _Labels) -> float:
    """Return the adjusted Rand index of two labellings (Hubert and Arabie 1985)."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(truth, labels))


def useful(clustering: Clustering) -> bool:
    """Whether it has a number of clusters that can be chosen from."""
    return 2 <= clustering.clusters <= _MOST_CLUSTERS
