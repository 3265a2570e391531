"""Two models of who is ill, as vectors of weights: a logistic regression and a variational circuit."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flows._federated.masking import MaskingError
from flows._federated.patients import FEATURES, QUBIT_FEATURES, Patients, columns_of

__all__ = [
    "Circuit",
    "PrivacyNoise",
    "SiteTraining",
    "correct",
    "correct_together",
    "fitted",
    "initial",
    "noise_for",
    "trained",
    "trained_together",
]

_Values = NDArray[np.float64]
_Model = Literal["logistic", "circuit"]
Circuit = Callable[[_Values, int], _Values]  # bindings (points, parameters), seed → ⟨Z⟩ (points,)

_DELTA = 1e-5
# The circuit's answer, from -1 to 1, as log-odds.
_STEEPNESS = 6.0
_RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)
_FOLDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyNoise:
    """Differential privacy of one patient at a site: sums are of clipped parts, with noise.

    Each step of training releases such a sum; multiplier: of the clipping bound, the noise's deviation.
    """

    multiplier: float
    clip: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTraining:
    """What a site is asked to do with the weights of a round. batch: patients of a step, 0 for all."""

    model: _Model
    seed: int
    round: int
    steps: int
    rate: float
    batch: int = 0
    layers: int = 2
    qubits: int = 4
    noise: PrivacyNoise | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_plain(cls, stated: Any) -> SiteTraining:
        """Return what `to_plain` gave. Raises ``MaskingError`` for what it would not give."""
        names = {one.name for one in fields(cls)}
        if not isinstance(stated, Mapping) or not names >= set(stated):
            raise MaskingError(f"a training has {', '.join(sorted(names))}")
        try:
            found = cls(**{**stated, "noise": _noise(stated.get("noise"))})
        except TypeError as error:
            raise MaskingError(f"a training that is none: {error}") from None
        if found.model not in ("logistic", "circuit"):
            raise MaskingError(f"no model {found.model!r:.40}; there are: circuit, logistic")
        for name, (low, high) in _BOUNDS.items():
            value = getattr(found, name)
            if type(value) is not int or not low <= value <= high:
                raise MaskingError(
                    f"{name} {value!r:.40}; expected a whole number, {low} to {high}"
                )
        _check_number("rate", found.rate, 0.0, 1000.0)
        return found


# What a coordinator may ask of a site.
_BOUNDS = {
    "seed": (0, 2**32),
    "round": (0, 10_000),
    "steps": (1, 10_000),
    "batch": (0, 10**6),
    "layers": (1, 20),
    "qubits": (2, len(QUBIT_FEATURES)),
}


def _noise(stated: Any) -> PrivacyNoise | None:
    if stated is None:
        return None
    if not isinstance(stated, Mapping):
        raise MaskingError("noise has multiplier and clip")
    found = PrivacyNoise(**stated)
    _check_number("multiplier", found.multiplier, 0.0, 1e6)
    _check_number("clip", found.clip, 1e-6, 1e6)
    return found


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high:
        raise MaskingError(f"{name} {value!r:.40}; expected a number, {low:g} to {high:g}")


def noise_for(epsilon: float, releases: int) -> PrivacyNoise:
    """Return the noise by which so many releases are (ε, 1e-5)-private in all.

    Gaussian mechanism under zero-concentrated privacy, ε = ρ + 2 √(ρ ln(1/δ)) (Bun and Steinke,
    arXiv:1605.02065), where one patient more or less changes a sum by at most the bound.
    """
    log = math.log(1 / _DELTA)
    root = math.sqrt(log + epsilon) - math.sqrt(log)
    return PrivacyNoise(multiplier=math.sqrt(releases / (2 * root**2)))


def initial(training: SiteTraining) -> _Values:
    """Return the weights that training begins with, the same at every site."""
    if training.model == "logistic":
        return np.zeros(len(FEATURES) + 1)
    rng = np.random.default_rng([training.seed, 17])
    size = 2 * training.layers * training.qubits
    return np.append(rng.normal(0, 0.1, size), 0.0)


def trained(
    weights: _Values,
    patients: Patients,
    training: SiteTraining,
    circuit: Circuit | None,
    noise_rng: np.random.Generator,
) -> _Values:
    """Return the weights after some steps on a site's patients."""
    if training.model == "logistic":
        return _logistic_steps(weights, patients, training, noise_rng)
    steps = _circuit_steps(weights, patients, training, noise_rng)
    return _in_step({patients.hospital: steps}, training, circuit)[0]


def trained_together(
    weights: _Values, several: Sequence[Patients], training: SiteTraining, circuit: Circuit
) -> list[_Values]:
    """Return the circuit's weights after training on each of several, with one call for each step."""
    rng = np.random.default_rng(training.seed)  # without noise it serves nobody
    steps = {one.hospital: _circuit_steps(weights, one, training, rng) for one in several}
    return _in_step(steps, training, circuit)


def correct(
    weights: _Values, patients: Patients, training: SiteTraining, circuit: Circuit | None
) -> NDArray[np.bool_]:
    """Return for each patient whether the model says what is the case."""
    if training.model == "logistic":
        odds = _with_one(patients.features) @ weights
        return np.asarray((odds > 0) == (patients.ill > 0.5))
    (hits,) = correct_together([weights], patients, training, circuit)
    return hits


def correct_together(
    several: Sequence[_Values], patients: Patients, training: SiteTraining, circuit: Circuit | None
) -> list[NDArray[np.bool_]]:
    """Return the same for the circuit with each of several weights, in one call."""
    bindings = np.vstack([_bindings(one, patients, training) for one in several])
    values = np.split(_called(circuit, bindings, training.seed), len(several))
    return [
        np.asarray((_odds(found, one) > 0) == (patients.ill > 0.5))
        for found, one in zip(values, several, strict=True)
    ]


def fitted(patients: Patients, seed: int) -> _Values:
    """Return the logistic regression that an expert would fit, its ridge chosen by inner validation."""
    rng = np.random.default_rng([seed, 5])
    folds = rng.permutation(len(patients)) % _FOLDS
    x, y = _with_one(patients.features), patients.ill
    scores = []
    for ridge in _RIDGES:
        hits = 0
        for fold in range(_FOLDS):
            inside = folds != fold
            w = _regressed(x[inside], y[inside], ridge)
            hits += int(np.count_nonzero((x[~inside] @ w > 0) == (y[~inside] > 0.5)))
        scores.append(hits)
    return _regressed(x, y, _RIDGES[int(np.argmax(scores))])


def _regressed(x: _Values, y: _Values, ridge: float) -> _Values:
    """Minimise the log-loss by Newton's method; the intercept is not shrunk."""
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-6
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = _sigmoid(x @ w)
        step = np.linalg.solve(
            (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty), x.T @ (p - y) + penalty * w
        )
        w = w - step
        if float(np.abs(step).max()) < 1e-8:
            break
    return w


def _logistic_steps(
    weights: _Values, patients: Patients, training: SiteTraining, noise_rng: np.random.Generator
) -> _Values:
    x, y, w = _with_one(patients.features), patients.ill, weights.copy()
    for _ in range(training.steps):
        each = x * (_sigmoid(x @ w) - y)[:, None]
        if training.noise is not None:
            bound = training.noise.clip
            norms = np.linalg.norm(each, axis=1, keepdims=True)
            each = each / np.maximum(1, norms / bound)
            noise = noise_rng.normal(0, training.noise.multiplier * bound, w.size)
        else:
            noise = np.zeros(w.size)
        w = w - training.rate * ((each.sum(axis=0) + noise) / len(y) + 1e-3 * w)
    return w


def _circuit_steps(
    weights: _Values, patients: Patients, training: SiteTraining, noise_rng: np.random.Generator
) -> Generator[_Values, _Values, _Values]:
    """Descend by simultaneous perturbation (Spall 1992): two evaluations of all weights a step.

    Yields the bindings of a step, is sent the circuit's values, and returns the weights.
    """
    w = weights.copy()
    for step in range(training.steps):
        count = training.round * training.steps + step
        rng = np.random.default_rng([training.seed, count, *patients.hospital.encode()])
        chosen = patients
        if training.noise is None and 0 < training.batch < len(patients):
            at = rng.choice(len(patients), training.batch, replace=False)
            chosen = Patients(
                hospital=patients.hospital, features=patients.features[at], ill=patients.ill[at]
            )
        # The same direction at all sites, so that their steps add up.
        shared = np.random.default_rng([training.seed, count])
        direction = shared.choice((-1.0, 1.0), w.size)
        width = 0.2 / (1 + count) ** 0.101
        both = [w + sign * width * direction for sign in (1, -1)]
        values = yield np.vstack([_bindings(one, chosen, training) for one in both])
        losses = [
            _losses(found, one, chosen)
            for found, one in zip(np.split(values, 2), both, strict=True)
        ]
        each = (losses[0] - losses[1]) / (2 * width)
        if training.noise is not None:
            bound = training.noise.clip
            total = np.clip(each, -bound, bound).sum()
            total += noise_rng.normal(0, training.noise.multiplier * bound)
        else:
            total = each.sum()
        rate = training.rate / (1 + count / 20) ** 0.602
        w = w - rate * (total / len(chosen)) * direction
    return w


def _in_step(
    several: Mapping[str, Generator[_Values, _Values, _Values]],
    training: SiteTraining,
    circuit: Circuit | None,
) -> list[_Values]:
    """Run trainings of as many steps each; the circuit is called once for a step of all of them."""
    asked = [next(one) for one in several.values()]
    for step in range(training.steps):
        count = training.round * training.steps + step
        # Sites measure apart: none has the shot noise of another.
        rng = np.random.default_rng([training.seed, count, *",".join(several).encode()])
        ends = np.cumsum([len(one) for one in asked])[:-1]
        values = np.split(_called(circuit, np.vstack(asked), int(rng.integers(2**31))), ends)
        if step + 1 < training.steps:
            asked = [one.send(found) for one, found in zip(several.values(), values, strict=True)]
    return [_returned(one, found) for one, found in zip(several.values(), values, strict=True)]


def _returned(training: Generator[_Values, _Values, _Values], values: _Values) -> _Values:
    try:
        training.send(values)
    except StopIteration as ended:
        weights: _Values = ended.value
        return weights
    raise AssertionError("a training has more steps than it says")


def _losses(values: _Values, weights: _Values, patients: Patients) -> _Values:
    odds = _odds(values, weights)
    losses: _Values = np.asarray(np.logaddexp(0, np.where(patients.ill > 0.5, -odds, odds)))
    return losses


def _bindings(weights: _Values, patients: Patients, training: SiteTraining) -> _Values:
    names = QUBIT_FEATURES[: training.qubits]
    # In all layers together at most a quarter turn, over which the answer rises with the feature.
    turn = math.pi / 4 / training.layers
    angles = np.clip(patients.features[:, columns_of(names)], -2, 2) * turn
    shared = np.broadcast_to(weights[:-1], (len(patients), weights.size - 1))
    return np.column_stack([angles, shared])


def _called(circuit: Circuit | None, bindings: _Values, seed: int) -> _Values:
    if circuit is None:
        raise ValueError("a circuit needs a QPU")
    return circuit(bindings, seed)


def _odds(values: _Values, weights: _Values) -> _Values:
    odds: _Values = _STEEPNESS * (values + weights[-1])
    return odds


def _with_one(features: _Values) -> _Values:
    return np.column_stack([features, np.ones(len(features))])


def _sigmoid(odds: _Values) -> _Values:
    risk: _Values = 0.5 * (1 + np.tanh(odds / 2))
    return risk
