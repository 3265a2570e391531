"""Learners of signals, tuned inside the training part of a split and scored on its test part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._anomalies.signals import Signals, Task
from flows._comparison import Figure, resampled

__all__ = [
    "Learner",
    "Scores",
    "Split",
    "baselines",
    "components",
    "measured",
    "precomputed",
    "quality",
    "scored",
    "splits_of",
    "subset_of",
    "support_vectors",
]

_Values = NDArray[np.float64]
_Indices = NDArray[np.int64]

_INNER_FOLDS = 3
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
_OUTLIERS = (0.02, 0.1, 0.3)
# Of a kernel's width, around scikit-learn's "scale".
_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
_NEIGHBOURS = (1, 3, 5, 9)
_SHARES_OF_FEATURES = (0.1, 0.5)
_TREES = 150
_LEAST_VARIANCE = 1e-6
_DIGITS = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Indices of the signals that train, and of those that test. seed: of what is random in it."""

    train: _Indices
    test: _Indices
    seed: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Learner:
    """A method with one choice of its parameters.

    view: the inputs of all signals, (signals, features), or a kernel, (signals, signals). make:
    returns an estimator of scikit-learn. is_kernel: whether the view is a kernel. bandwidth: of the
    encoding that made the view, None without one.
    """

    label: str
    view: _Values
    make: Callable[[], Any]
    is_kernel: bool = False
    bandwidth: float | None = None

    def scores(self, train: _Indices, test: _Indices, is_target: NDArray[np.bool_]) -> _Values:
        """Return a score for each signal of the test part; targets should have larger ones."""
        columns = train if self.is_kernel else np.arange(self.view.shape[1])
        estimator = self.make()
        estimator.fit(self.view[np.ix_(train, columns)], is_target[train])
        rows = self.view[np.ix_(test, columns)]
        if hasattr(estimator, "predict_proba"):
            return np.asarray(estimator.predict_proba(rows)[:, 1] - 0.5)
        return np.asarray(estimator.decision_function(rows))


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """What the learner chosen inside the training part makes of the test part.

    tuned: its parameters. by_bandwidth: the best quality in the inner validation for each.
    """

    test: _Indices
    values: _Values
    tuned: str
    by_bandwidth: Mapping[float, float]


class _Detector:
    """A detector of outliers as a classifier that learns from the ordinary signals alone."""

    def __init__(self, detector: Any, *, is_kernel: bool = False) -> None:
        self._detector = detector
        self._is_kernel = is_kernel
        self._ordinary: NDArray[np.bool_] | None = None

    def fit(self, rows: _Values, is_target: NDArray[np.bool_]) -> None:
        self._ordinary = ~is_target
        kept = rows[~is_target]
        self._detector.fit(kept[:, ~is_target] if self._is_kernel else kept)

    def decision_function(self, rows: _Values) -> _Values:
        seen = rows[:, self._ordinary] if self._is_kernel else rows
        return -np.asarray(self._detector.score_samples(seen))


class _Distance:
    """Minus the mean distance to the nearest known points."""

    def __init__(self, neighbours: int) -> None:
        self._neighbours = neighbours
        self._tree: Any = None

    def fit(self, rows: _Values) -> None:
        from scipy.spatial import cKDTree

        self._neighbours = min(self._neighbours, len(rows))
        self._tree = cKDTree(rows)

    def score_samples(self, rows: _Values) -> _Values:
        distances, _ = self._tree.query(rows, k=range(1, self._neighbours + 1))
        return -np.asarray(distances.mean(axis=1))


def splits_of(
    is_target: NDArray[np.bool_], folds: int, repeats: int, seed: int
) -> tuple[Split, ...]:
    """Return the splits of a repeated cross-validation; each part has both classes."""
    from sklearn.model_selection import RepeatedStratifiedKFold

    parts = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    return tuple(
        Split(train=train, test=test, seed=seed + number)
        for number, (train, test) in enumerate(parts.split(is_target, is_target))
    )


def subset_of(signals: Signals, most: int, seed: int) -> tuple[Signals, _Indices, _Indices]:
    """Return a stratified choice of signals, the indices of those, and those of all others."""
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(signals))
    most = min(most, len(signals) - 2)
    rest, chosen = train_test_split(
        indices, test_size=most, random_state=seed, stratify=signals.is_target
    )
    chosen, rest = np.sort(chosen), np.sort(rest)
    part = replace(signals, features=signals.features[chosen], is_target=signals.is_target[chosen])
    return part, chosen, rest


def components(signals: Signals, fitted_on: _Indices, count: int) -> _Values:
    """Return so many whitened principal components of all signals, fitted on some of them.

    Where outliers are to be detected, only the ordinary ones of those count. Components beyond
    the rank are 0.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    if signals.task == "detection":
        fitted_on = fitted_on[~signals.is_target[fitted_on]]
    scaler = StandardScaler().fit(signals.features[fitted_on])
    scaled = scaler.transform(signals.features)
    most = min(count, *scaled[fitted_on].shape)
    analysis = PCA(n_components=most, svd_solver="full").fit(scaled[fitted_on])
    found = analysis.transform(scaled)
    variance = analysis.explained_variance_
    known = variance > _LEAST_VARIANCE * max(variance[0], _LEAST_VARIANCE)
    whitened = np.zeros((len(signals), count))
    whitened[:, :most][:, known] = found[:, known] / np.sqrt(variance[known])
    return whitened


def support_vectors(
    task: Task, view: _Values, train: _Indices, bandwidth: float | None = None
) -> list[Learner]:
    """Return support vector machines with a Gaussian kernel of several widths.

    The widths are multiples of scikit-learn's "scale", which follows from the training part: labels
    are then the same in all splits, and can be counted.
    """
    label = "" if bandwidth is None else f"bandwidth {bandwidth:g}, "
    spread = float(view[train].var()) * view.shape[1] or 1.0
    made = []
    for width in _WIDTHS:
        gamma = width / spread
        for parameter, build in _machines(task):
            made.append(
                Learner(
                    label=f"{label}γ {width:g} × scale, {parameter}",
                    view=view,
                    make=partial(build, kernel="rbf", gamma=gamma),
                    bandwidth=bandwidth,
                )
            )
    return made


def precomputed(task: Task, kernel: _Values, bandwidth: float) -> list[Learner]:
    """Return support vector machines on a kernel of all signals."""
    return [
        Learner(
            label=f"bandwidth {bandwidth:g}, {parameter}",
            view=kernel,
            make=partial(build, kernel="precomputed"),
            is_kernel=True,
            bandwidth=bandwidth,
        )
        for parameter, build in _machines(task)
    ]


def _machines(task: Task) -> Iterator[tuple[str, Callable[..., Any]]]:
    if task == "recognition":
        for penalty in _PENALTIES:
            yield f"C {penalty:g}", partial(_classifier, penalty)
    else:
        for share in _OUTLIERS:
            yield f"share of outliers {share:g}", partial(_outlier_machine, share)


def _classifier(penalty: float, **options: Any) -> Any:
    from sklearn.svm import SVC

    return SVC(C=penalty, **options)


def _outlier_machine(share: float, **options: Any) -> Any:
    from sklearn.svm import OneClassSVM

    is_kernel = options["kernel"] == "precomputed"
    return _Detector(OneClassSVM(nu=share, **options), is_kernel=is_kernel)


def baselines(signals: Signals, reduced: _Values, split: Split) -> dict[str, list[Learner]]:
    """Return what an expert would try without a QPU, by name, with the choices of each.

    Features are standardised by the training part. reduced: the components that the QPU gets.
    """
    from sklearn.preprocessing import StandardScaler

    whole = StandardScaler().fit(signals.features[split.train]).transform(signals.features)
    trees = "random forest" if signals.task == "recognition" else "isolation forest"
    machine = "SVM" if signals.task == "recognition" else "one-class SVM"
    return {
        f"{machine}, all features": support_vectors(signals.task, whole, split.train),
        f"{machine}, same components": support_vectors(signals.task, reduced, split.train),
        "nearest neighbours": _neighbours(signals.task, whole),
        trees: [
            Learner(
                label=f"{share:g} of the features",
                view=whole,
                make=partial(_forest, signals.task, share, split.seed),
            )
            for share in _SHARES_OF_FEATURES
        ],
    }


def _neighbours(task: Task, view: _Values) -> list[Learner]:
    make = _nearest if task == "recognition" else _distant
    return [Learner(label=f"k {k}", view=view, make=partial(make, k)) for k in _NEIGHBOURS]


def _nearest(neighbours: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(neighbours)


def _distant(neighbours: int) -> Any:
    return _Detector(_Distance(neighbours))


def _forest(task: Task, share: float, seed: int) -> Any:
    from sklearn.ensemble import IsolationForest, RandomForestClassifier

    if task == "recognition":
        return RandomForestClassifier(_TREES, max_features=share, random_state=seed)
    return _Detector(IsolationForest(n_estimators=_TREES, max_features=share, random_state=seed))


def scored(signals: Signals, learners: Sequence[Learner], split: Split) -> Scores:
    """Choose a learner inside the training part, train it there, and score the test part."""
    from sklearn.model_selection import StratifiedKFold

    inner = StratifiedKFold(_INNER_FOLDS, shuffle=True, random_state=split.seed)
    labels = signals.is_target
    parts = [
        (split.train[train], split.train[validation])
        for train, validation in inner.split(split.train, labels[split.train])
    ]

    def found(learner: Learner) -> float:
        qualities = [
            quality(signals.task, learner.scores(train, rest, labels), labels[rest])
            for train, rest in parts
        ]
        return float(np.mean(qualities))

    validated = [found(learner) for learner in learners]
    # Of equally good ones, the first, whatever the last digits of their means are.
    best = int(np.argmax(np.round(validated, _DIGITS)))
    return Scores(
        test=split.test,
        values=learners[best].scores(split.train, split.test, labels),
        tuned=learners[best].label,
        by_bandwidth=_best_of_each(learners, validated),
    )


def _best_of_each(learners: Sequence[Learner], validated: Sequence[float]) -> dict[float, float]:
    best: dict[float, float] = {}
    for learner, found in zip(learners, validated, strict=True):
        if learner.bandwidth is not None:
            best[learner.bandwidth] = max(found, best.get(learner.bandwidth, found))
    return best


def quality(task: Task, scores: _Values, is_target: NDArray[np.bool_]) -> float:
    """Return the accuracy of scores, or the area under their ROC curve."""
    if task == "recognition":
        return float(((scores > 0) == is_target).mean())
    return float(_wins(scores, is_target).mean())


def _wins(scores: _Values, is_target: NDArray[np.bool_]) -> _Values:
    """Return for each target and each other signal whether the target has the larger score."""
    targets, others = scores[is_target][:, np.newaxis], scores[~is_target]
    return np.asarray((targets > others) + 0.5 * (targets == others))


def measured(
    signals: Signals, found: Sequence[Scores], seed: int
) -> tuple[Figure, tuple[float, ...]]:
    """Return the mean quality of all splits, with its bootstrap error over the signals."""
    count = len(signals)
    if signals.task == "recognition":
        rights, tests = np.zeros(count), np.zeros(count)
        for one in found:
            rights[one.test] += (one.values > 0) == signals.is_target[one.test]
            tests[one.test] += 1

        def accuracy(chosen: _Indices) -> float:
            return float(rights[chosen].sum() / tests[chosen].sum())

        return resampled(accuracy, count, seed)
    wins = [_wins(one.values, signals.is_target[one.test]) for one in found]

    def area(chosen: _Indices) -> float:
        weights = np.bincount(chosen, minlength=count)
        areas = [
            _weighted(table, weights[one.test], signals.is_target[one.test])
            for table, one in zip(wins, found, strict=True)
        ]
        return float(np.nanmean(areas))

    return resampled(area, count, seed)


def _weighted(wins: _Values, weights: _Indices, is_target: NDArray[np.bool_]) -> float:
    targets, others = weights[is_target], weights[~is_target]
    pairs = targets.sum() * others.sum()
    return float(targets @ wins @ others / pairs) if pairs else float("nan")
