"""Targets recognised and anomalies detected by quantum kernels, beside what needs no QPU.

A QPU encodes the whitened principal components of each signal as angles and measures the state of
each qubit; a support vector machine learns from these (projected kernel). On a smaller subset, the
fidelity of each pair of signals is measured, too. Beside them: support vector machines on all
features and on the same components, nearest neighbours, and a forest. The set is divided into parts,
each of which tests once; every parameter of every learner, the quantum kernels' bandwidth included,
is chosen by validation inside the training part. ``hpcqc run flows.anomalies -p name=value …`` takes:

- ``data``: sonar (mines among rocks) or ionosphere (bad radar returns), by default both, which
  ship; or a file with a signal per line, numbers and a label, separated by commas; or a folder with
  the files sonar.dat, sonar.all-data, ionosphere.dat or ionosphere.data of UCI and KEEL.
- ``task``: recognition (both classes are learnt; accuracy) or detection (ordinary signals are
  learnt, the others are anomalies; area under the ROC curve). By default sonar and other files are
  recognised, and ionosphere is detected. Detectors are trained on ordinary signals alone; known
  anomalies of the training part only choose their parameters.
- ``target``: the label of what is to be found; by default M of sonar, b of ionosphere, else the
  rarer label.
- ``qubits``: as many components are encoded; ``layers``: how often; ``encoding``: reuploading or
  zz; ``bandwidths``: angles per unit of a component, of which the best is chosen; ``shots`` of each
  circuit: a signal takes three for each bandwidth and split, a pair of the subset one.
- ``subset``: signals for the fidelity kernel, 0 for none.
- ``folds`` and ``repeats`` of the cross-validation; ``seed`` of splits, forests and simulated shots.

Beside the keys that `flows` documents, the result has ``sets``, a list with ``title``, ``task``,
``target``, ``signals``, ``features``, ``components``, ``subset``, ``measure``, ``verdict`` (of the
whole set), ``subset_verdict`` and ``ways``; a way has ``name``, ``on`` ("set" or "subset"),
``is_quantum``, ``value``, ``error``, ``tuned`` (chosen parameters with the number of splits) and
``bandwidths`` (inner quality by bandwidth). Errors are of a bootstrap over the signals, of
differences pairwise. ``circuits`` counts what the QPU executed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from flows._anomalies.encoding import Encoding, FeatureMap, bloch_vectors, fidelities
from flows._anomalies.learning import (
    Learner,
    Scores,
    Split,
    baselines,
    components,
    measured,
    precomputed,
    scored,
    splits_of,
    subset_of,
    support_vectors,
)
from flows._anomalies.picture import SetPanel, picture
from flows._anomalies.signals import LEAST_OF_A_CLASS, Signals, Task, signals_of
from flows._comparison import Comparison, Way
from flows._inputs import InputError, check_whole, require_extra
from hpcqc import Qpu, checked_by, classical, fan_out, open_qpu, quantum
from orchestrator.wording import counted

__all__ = [
    "FIDELITY",
    "PROJECTED",
    "KernelSettings",
    "PreparedSignals",
    "compare_pairs",
    "learn",
    "learnt",
    "outcome",
    "prepare",
    "project",
    "reference",
    "result",
    "tried",
]

_Values = NDArray[np.float64]
_ByName = Mapping[str, Sequence[Scores]]

_DEFAULT_MAP = FeatureMap(encoding="reuploading", qubits=8, layers=2)
_MOST_QUBITS = 20
_LEAST_SUBSET = 40
_MOST_SUBSET = 400
PROJECTED, FIDELITY = "projected quantum kernel", "fidelity quantum kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """How kernels are made and compared."""

    encoded: FeatureMap = _DEFAULT_MAP
    bandwidths: tuple[float, ...] = (0.1, 0.2, 0.4)
    shots: int = 500
    subset: int = 60
    folds: int = 5
    repeats: int = 1
    seed: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedSignals:
    """Signals with their splits, and for each split the components of all signals."""

    signals: Signals
    splits: tuple[Split, ...]
    reduced: tuple[_Values, ...]


@classical
def prepare(
    signals: Signals, settings: KernelSettings
) -> tuple[PreparedSignals, PreparedSignals | None]:
    """Divide a set, and a subset of it, and reduce the signals to components.

    The components of the subset are fitted on all other signals, so that one kernel of all its
    pairs serves each split.
    """
    qubits = settings.encoded.qubits
    splits = splits_of(signals.is_target, settings.folds, settings.repeats, settings.seed)
    whole = PreparedSignals(
        signals=signals,
        splits=splits,
        reduced=tuple(components(signals, split.train, qubits) for split in splits),
    )
    if not settings.subset:
        return whole, None
    part, chosen, rest = subset_of(signals, settings.subset, settings.seed)
    splits = splits_of(part.is_target, settings.folds, settings.repeats, settings.seed)
    reduced = components(signals, rest, qubits)[chosen]
    return whole, PreparedSignals(signals=part, splits=splits, reduced=(reduced,) * len(splits))


@classical(nodes=(1, 3))
def reference(prepared: PreparedSignals) -> dict[str, list[Scores]]:
    """Train and test what needs no QPU, by name and split."""
    return tried(prepared, fan_out)


def tried(prepared: PreparedSignals, apply: Callable[..., Any]) -> dict[str, list[Scores]]:
    """Return what the baselines score; ``apply`` is `map`, or spreads the splits over workers."""
    made = list(apply(partial(_baselines_of, prepared), range(len(prepared.splits))))
    return {name: [one[name] for one in made] for name in made[0]}


def _baselines_of(prepared: PreparedSignals, number: int) -> dict[str, Scores]:
    split, reduced = prepared.splits[number], prepared.reduced[number]
    tried = baselines(prepared.signals, reduced, split)
    return {name: scored(prepared.signals, learners, split) for name, learners in tried.items()}


@quantum
def project(qpu: Qpu, reduced: Sequence[_Values], settings: KernelSettings) -> list[_Values]:
    """Measure the Bloch vectors of all signals: (bandwidths, signals, 3 × qubits) for each split."""
    sampler = qpu.sampler(seed=settings.seed)
    found = []
    for values in reduced:
        angles = np.concatenate([bandwidth * values for bandwidth in settings.bandwidths])
        vectors = bloch_vectors(sampler, settings.encoded, angles, settings.shots)
        found.append(vectors.reshape(len(settings.bandwidths), len(values), -1))
    return found


@quantum
def compare_pairs(
    qpu: Qpu, reduced: Sequence[_Values], settings: KernelSettings
) -> list[list[_Values]]:
    """Measure the fidelities of all pairs of signals, for each reduction and bandwidth."""
    sampler = qpu.sampler(seed=settings.seed)
    return [
        [
            fidelities(sampler, settings.encoded, bandwidth * values, settings.shots)
            for bandwidth in settings.bandwidths
        ]
        for values in reduced
    ]


@classical(nodes=(1, 3))
def learn(
    prepared: PreparedSignals, made: Sequence[Any], settings: KernelSettings, kind: str
) -> list[Scores]:
    """Train and test on what the QPU measured: vectors, or kernels of all pairs.

    made: for each split, or one for all, and then for each bandwidth.
    """
    return learnt(prepared, made, settings, kind, fan_out)


def learnt(
    prepared: PreparedSignals,
    made: Sequence[Any],
    settings: KernelSettings,
    kind: str,
    apply: Callable[..., Any],
) -> list[Scores]:
    """Return what a kernel scores; ``apply`` is `map`, or spreads the splits over workers."""
    train = partial(_learned, prepared, made, settings, kind)
    return list(apply(train, range(len(prepared.splits))))


def _learned(
    prepared: PreparedSignals, made: Sequence[Any], settings: KernelSettings, kind: str, number: int
) -> Scores:
    task, split = prepared.signals.task, prepared.splits[number]
    learners: list[Learner] = []
    for bandwidth, view in zip(settings.bandwidths, made[number % len(made)], strict=True):
        if kind == PROJECTED:
            learners += support_vectors(task, view, split.train, bandwidth)
        else:
            learners += precomputed(task, view, bandwidth)
    return scored(prepared.signals, learners, split)


def _checked(given: Mapping[str, Any]) -> list[Signals]:
    """Return the sets, once all parameters have been found usable."""
    require_extra("learning", ("sklearn",))
    bounds = {
        "qubits": (1, _MOST_QUBITS),
        "layers": (1, 20),
        "shots": (1, 10**6),
        "folds": (2, LEAST_OF_A_CLASS // 2),
        "repeats": (1, 100),
        "seed": (0, 2**31 - 1),
    }
    check_whole(given, bounds)
    if given["subset"] and not _LEAST_SUBSET <= given["subset"] <= _MOST_SUBSET:
        raise InputError(
            f"subset {given['subset']}: expected {_LEAST_SUBSET} to {_MOST_SUBSET} signals, whose "
            "pairs take a circuit each, or 0 for no fidelity kernel"
        )
    bandwidths = given["bandwidths"] or ()
    if given["bandwidths"] is not None and not bandwidths:
        raise InputError("bandwidths []: expected at least one number > 0")
    for value in bandwidths:
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"bandwidths {value}: expected numbers > 0")
    sets = signals_of(given["data"], given["task"], given["target"])
    if given["subset"]:
        for one in sets:
            _check_subset(one, given["subset"])
    return sets


def _check_subset(signals: Signals, subset: int) -> None:
    """Raise `InputError` if a stratified subset has too few signals of a class, or leaves too few."""
    if subset > len(signals) - 2 * LEAST_OF_A_CLASS:
        raise InputError(
            f"subset {subset} of {len(signals)} signals ({signals.title}): expected at least "
            f"{2 * LEAST_OF_A_CLASS} signals outside the subset, or subset=0"
        )
    rare = min(signals.is_target.mean(), 1 - signals.is_target.mean())
    if round(subset * rare) < LEAST_OF_A_CLASS:
        raise InputError(
            f"subset {subset}: about {round(subset * rare)} signals of one label ({signals.title}); "
            f"expected a subset with {LEAST_OF_A_CLASS}, or subset=0"
        )


@flow
@checked_by(_checked)
def anomalies(
    data: str | None = None,
    task: Task | None = None,
    target: str | None = None,
    qubits: int = 8,
    layers: int = 2,
    encoding: Encoding = "reuploading",
    bandwidths: list[float] | None = None,
    shots: int = 500,
    subset: int = 60,
    folds: int = 5,
    repeats: int = 1,
    seed: int = 1,
) -> dict[str, Any]:
    """Compare quantum kernels with classical learners; see this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, with file and line where
    there is one.
    """
    sets = _checked(locals())
    most = open_qpu().target.num_qubits
    if most is not None and qubits > most:
        raise InputError(f"qubits {qubits}: expected at most {most}, the qubits of this QPU")
    settings = KernelSettings(
        encoded=FeatureMap(encoding=encoding, qubits=qubits, layers=layers),
        bandwidths=tuple(sorted(set(bandwidths or KernelSettings().bandwidths))),
        shots=shots,
        subset=subset,
        folds=folds,
        repeats=repeats,
        seed=seed,
    )
    found = [_on(signals, settings) for signals in sets]
    return result([one() for one in found], settings)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Outcome:
    """What was found on a set: scores by way, on all of it and on its subset."""

    whole: PreparedSignals
    part: PreparedSignals | None
    scores: Mapping[str, Mapping[str, Sequence[Scores]]]
    comparisons: Mapping[str, Comparison]


def _on(signals: Signals, settings: KernelSettings) -> Any:
    """Start the stages of a set; return a function that waits for them."""
    whole, part = prepare(signals, settings)
    known = reference.submit(whole)
    vectors: Any = project.submit(whole.reduced, settings)
    projected = learn.submit(whole, vectors, settings, PROJECTED)
    waited = {"set": (known, {PROJECTED: projected})}
    if part is not None:
        known = reference.submit(part)
        kernels: Any = compare_pairs.submit(part.reduced[:1], settings)
        vectors = project.submit(part.reduced[:1], settings)
        waited["subset"] = (
            known,
            {
                FIDELITY: learn.submit(part, kernels, settings, FIDELITY),
                PROJECTED: learn.submit(part, vectors, settings, PROJECTED),
            },
        )
    return partial(_waited, whole, part, waited, settings.seed)


def _waited(
    whole: PreparedSignals, part: PreparedSignals | None, waited: Mapping[str, Any], seed: int
) -> _Outcome:
    found = {
        where: ({name: one.result() for name, one in learnt.items()}, known.result())
        for where, (known, learnt) in waited.items()
    }
    return outcome(whole, part, found, seed)


def outcome(
    whole: PreparedSignals,
    part: PreparedSignals | None,
    found: Mapping[str, tuple[_ByName, _ByName]],
    seed: int,
) -> _Outcome:
    """Compare the scores on a set and its subset: of quantum kernels, and of what needs no QPU."""
    scores, comparisons = {}, {}
    for where, (ours, known) in found.items():
        prepared = whole if part is None or where == "set" else part
        scores[where] = {**ours, **known}
        comparisons[where] = _compared(prepared, ours, known, where, seed)
    return _Outcome(whole=whole, part=part, scores=scores, comparisons=comparisons)


def _compared(
    prepared: PreparedSignals,
    ours: Mapping[str, Sequence[Scores]],
    known: Mapping[str, Sequence[Scores]],
    where: str,
    seed: int,
) -> Comparison:
    signals = prepared.signals
    ways = []
    for name, found in {**ours, **known}.items():
        figure, draws = measured(signals, found, seed)
        ways.append(Way(name=name, figure=figure, is_quantum=name in ours, draws=draws))
    size = f"{len(signals)} signals" if where == "set" else f"subset of {len(signals)}"
    return Comparison(
        ways=ways,
        measure="accuracy" if signals.task == "recognition" else "area under the ROC curve",
        data=f"{signals.title}, {size}",
    )


def result(found: Sequence[_Outcome], settings: KernelSettings) -> dict[str, Any]:
    """Return what the flow does, from the outcome of each set."""
    sets = [_set(one, settings) for one in found]
    rows = [
        [
            f"{one['title']}" + (f", {one['subset']} of them" if way["on"] == "subset" else ""),
            way["name"],
            one["measure"],
            round(way["value"], 4),
            round(way["error"], 4),
            max(way["tuned"], key=way["tuned"].__getitem__),
        ]
        for one in sets
        for way in one["ways"]
    ]
    return {
        "sets": sets,
        "comparisons": [c.as_record() for one in found for c in one.comparisons.values()],
        "circuits": sum(_circuits(one, settings) for one in found),
        "shots": settings.shots,
        "folds": settings.folds,
        "repeats": settings.repeats,
        "seed": settings.seed,
        "plot": picture([_panel(one) for one in found]),
        "table": {
            "columns": [
                "Signals",
                "Learner",
                "Measure",
                "Value",
                "Std. error",
                "Most often tuned to",
            ],
            "rows": rows,
        },
        "summary": _summary(found, sets, settings),
    }


def _set(found: _Outcome, settings: KernelSettings) -> dict[str, Any]:
    signals = found.whole.signals
    part = found.comparisons.get("subset")
    return {
        "title": signals.title,
        "task": signals.task,
        "target": signals.target,
        "signals": len(signals),
        "features": signals.features.shape[1],
        "components": min(settings.encoded.qubits, signals.features.shape[1]),
        "subset": 0 if found.part is None else len(found.part.signals),
        "measure": found.comparisons["set"].measure,
        "verdict": found.comparisons["set"].verdict,
        "subset_verdict": None if part is None else part.verdict,
        "ways": [
            {
                "name": way.name,
                "on": where,
                "is_quantum": way.is_quantum,
                "value": way.figure.value,
                "error": way.figure.error,
                "tuned": dict(Counter(one.tuned for one in found.scores[where][way.name])),
                "bandwidths": _bandwidths(found.scores[where][way.name]),
            }
            for where, comparison in found.comparisons.items()
            for way in comparison.ways
        ],
    }


def _bandwidths(found: Sequence[Scores]) -> dict[str, float]:
    """Return the mean inner quality by bandwidth, as text; nothing for what has none."""
    return {
        f"{bandwidth:g}": float(np.mean([one.by_bandwidth[bandwidth] for one in found]))
        for bandwidth in found[0].by_bandwidth
    }


def _circuits(found: _Outcome, settings: KernelSettings) -> int:
    """Return how many bound circuits the QPU executed."""
    signals = len(found.whole.signals) * len(found.whole.splits)
    circuits = 3 * signals
    if found.part is not None:
        most = len(found.part.signals)
        circuits += 3 * most + most * (most - 1) // 2
    return circuits * len(settings.bandwidths)


def _panel(found: _Outcome) -> SetPanel:
    scores, comparison = found.scores["set"], found.comparisons["set"]
    best = max(
        (way for way in comparison.ways if not way.is_quantum), key=lambda way: way.figure.value
    )
    kernels = {PROJECTED: scores[PROJECTED]}
    if found.part is not None:
        kernels[f"{FIDELITY}, subset"] = found.scores["subset"][FIDELITY]
    return SetPanel(
        title=found.whole.signals.title,
        comparisons=found.comparisons,
        bandwidths={
            name: {float(key): value for key, value in _bandwidths(one).items()}
            for name, one in kernels.items()
        },
        curves={name: scores[name] for name in (PROJECTED, best.name)},
        is_target=found.whole.signals.is_target,
    )


def _summary(
    found: Sequence[_Outcome], sets: Sequence[Mapping[str, Any]], settings: KernelSettings
) -> list[str]:
    lines = [f"{one['title']}: {one['verdict']}" for one in sets]
    lines += [
        f"{one['title']}, subset of {one['subset']}: {one['subset_verdict']}"
        for one in sets
        if one["subset_verdict"]
    ]
    for one in sets:
        reduced = one["features"] > settings.encoded.qubits
        lines.append(
            f"{one['title']}: {counted(one['signals'], 'signal')} of "
            f"{counted(one['features'], 'feature')}, "
            + (
                f"of which the QPU gets {counted(one['components'], 'whitened component')}."
                if reduced
                else "whitened for the QPU."
            )
        )
    splits = counted(settings.folds * settings.repeats, "split")
    lines.append(
        f"{splits[0].upper()}{splits[1:]} each; every parameter is chosen by validation inside the "
        "training part; errors are of a bootstrap over the signals."
    )
    if any(one.whole.signals.task == "detection" for one in found):
        lines.append(
            "Detectors learn ordinary signals alone; known anomalies of the training part only "
            "choose their parameters."
        )
    return lines
