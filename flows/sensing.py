"""A simulation of inertial navigation with a cold-atom accelerometer, whose atoms are shots of the QPU.

No atom interferometer is measured: a qubit of the QPU stands for the atoms of an axis (H, RZ(φ), H has
the law of its fringe; a shot is an atom; the QPU's noise lowers its contrast). The real or generated
readings of a classical accelerometer predict the phase, and the atoms tell its bias. The time between
the laser pulses is chosen before each interrogation: the longest at which the phase is still known to
half a radian. Position and bias are fused by a Kalman filter. Beside it: the accelerometer as it is,
the same calibrated at rest, and interrogation at fixed times, which lose the fringe. Every way starts
from a known position, speed and attitude; turn rates are not integrated.
``hpcqc run flows.sensing -p name=value …`` takes:

- ``data``: a PX4 flight log (ULog, ``*.ulg``), or a folder with one, that has a rest of ``rest`` and
  ``duration`` together. The truth is then that the body rests: its specific force is gravity in the
  mean direction of its own readings, which is partly circular. By default generated drives of a level
  vehicle, whose accelerations are known. A log needs the extra ``hpcqc[sensing]``.
- ``trials``: how many drives, or parts of the log's rest. Where these overlap, errors are those of as
  many as fit into the rest without.
- ``rest`` in s, by which the calibrated accelerometer learns its bias; the atoms do not need it.
- ``duration`` of the navigation in s; ``rate``: interrogations per second.
- ``atoms`` of an interrogation: shots. ``gravity`` in m/s²; ``seed`` of all that is random.

Beside the keys that `flows` documents, the result has ``is_sensor_simulation`` (true), ``source``,
``trials``, ``duration_s``, ``drifts`` (for each way ``drift_m``, distance from the true position at the
end, and ``std_error`` over the trials, ``lost``: share of axes whose bias is wrong at the end by more
than half a fringe of the last pulses), ``contrast`` of each axis as measured, and ``longest_pulse_s``
(median at the end, adaptive).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from flows._comparison import Comparison, Way, resampled
from flows._inputs import InputError, check_whole
from flows._sensing.atoms import (
    WAVE_VECTOR,
    Belief,
    Fringe,
    fringe_of,
    interferometer,
    longest,
    predicted_noise,
    seen,
    updated,
    upper_shares,
)
from flows._sensing.logs import Leg, generated, independent, read_log, trials_of
from flows._sensing.navigation import Correction, drift, drift_corrected
from flows._sensing.picture import Course, picture
from hpcqc import Qpu, checked_by, classical, fan_out, quantum
from orchestrator.wording import counted

__all__ = [
    "ADAPTIVE",
    "CALIBRATED",
    "FIXED_S",
    "FREE",
    "Interrogating",
    "Interrogation",
    "calibrated_fringe",
    "drifts",
    "interrogate",
    "navigated_all",
    "result",
    "sensing",
]

_Values = NDArray[np.float64]

ADAPTIVE = "simulated hybrid, adaptive"
_GENERATED = "generated drives"
FREE, CALIBRATED = "free inertial", "inertial calibrated at rest"
FIXED_S = (2e-3, 5e-3)
_PHASES = 16
# A cheap accelerometer's bias, before anything is known of it, and how it wanders in a second.
_FIRST_DEVIATION, _WANDERING = 0.3, 0.001
_PLOTTED = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrogation:
    """One interrogation of each trial (first axis) and each sensor's axis, all (trials, 3).

    at_s: in the middle of the pulses. pulses_s: T. before, after: standard deviations of the bias,
    change: of its mean.
    """

    at_s: float
    pulses_s: _Values
    before: _Values
    after: _Values
    change: _Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrogating:
    """How the atoms are interrogated; see the module's text."""

    atoms: int
    rate: float
    seed: int


@quantum
def calibrated_fringe(qpu: Qpu, settings: Interrogating) -> Fringe:
    """Measure offset and contrast of each axis of the simulated sensor by a scan of phases."""
    phases = 2 * np.pi * np.arange(_PHASES) / _PHASES
    rows = np.repeat(phases[:, None], 3, axis=1)
    sampler = qpu.sampler(default_shots=4 * settings.atoms, seed=settings.seed)
    result = sampler.run([(interferometer(), rows)]).result()
    return fringe_of(phases, upper_shares(result[0].data.meas), 4 * settings.atoms)


@quantum
def interrogate(
    qpu: Qpu, trials: Sequence[Leg], fringe: Fringe, settings: Interrogating
) -> dict[str, list[Interrogation]]:
    """Interrogate the simulated atoms of all trials; each cycle is one broadcast PUB for all ways."""
    circuit = interferometer()
    ways: dict[str, float | None] = {ADAPTIVE: None}
    ways |= {_fixed(pulse_s): pulse_s for pulse_s in FIXED_S}
    first = Belief(mean=0.0, deviation=_FIRST_DEVIATION)
    beliefs = {name: [[first] * 3 for _ in trials] for name in ways}
    found: dict[str, list[Interrogation]] = {name: [] for name in ways}
    last_s = min(trial.times[-1] for trial in trials)
    with qpu.lease():
        for cycle in range(int(last_s * settings.rate)):
            begin_s = cycle / settings.rate
            plans = {
                name: _plans(trials, beliefs[name], pulse_s, begin_s)
                for name, pulse_s in ways.items()
            }
            rows = np.concatenate(
                [[[one.phase for one in row] for row in plan] for plan in plans.values()]
            )
            sampler = qpu.sampler(default_shots=settings.atoms, seed=settings.seed + 1 + cycle)
            measured = sampler.run([(circuit, rows)]).result()[0].data.meas
            shares = upper_shares(measured).reshape(len(ways), len(trials), 3)
            for name, ours in zip(ways, shares, strict=True):
                found[name].append(_learnt(beliefs[name], plans[name], ours, fringe, settings))
    return found


def _fixed(pulse_s: float) -> str:
    return f"simulated hybrid, fixed {1000 * pulse_s:g} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """An interrogation of an axis: pulses, what readings miss by noise, and the phase that results."""

    at_s: float
    pulse_s: float
    noise: float
    phase: float


def _plans(
    trials: Sequence[Leg], beliefs: list[list[Belief]], fixed_s: float | None, begin_s: float
) -> list[list[_Plan]]:
    plans = []
    for trial, known in zip(trials, beliefs, strict=True):
        noises, sample_s = trial.noise, float(np.median(np.diff(trial.times)))
        row = []
        for axis, belief in enumerate(known):
            pulse_s = fixed_s or longest(belief, float(noises[axis]), sample_s)
            both = np.column_stack([trial.read[:, axis], trial.truth[:, axis]])
            read, truth = seen(trial.times, both, begin_s, pulse_s)
            # The lasers' phase is set so that the expected fringe is at its middle, π/2.
            missed = (truth - (read - belief.mean)) * WAVE_VECTOR * pulse_s**2
            row.append(
                _Plan(
                    at_s=begin_s + pulse_s,
                    pulse_s=pulse_s,
                    noise=predicted_noise(float(noises[axis]), pulse_s, sample_s),
                    phase=math.remainder(math.pi / 2 + missed, 2 * math.pi),
                )
            )
        plans.append(row)
    return plans


def _learnt(
    beliefs: list[list[Belief]],
    plans: list[list[_Plan]],
    shares: _Values,
    fringe: Fringe,
    settings: Interrogating,
) -> Interrogation:
    """Update what is known of each bias, in place, and return what changed."""
    before, after, change = (np.zeros(shares.shape) for _ in range(3))
    for index, (known, row) in enumerate(zip(beliefs, plans, strict=True)):
        for axis, plan in enumerate(row):
            old = known[axis]
            new = updated(
                old,
                plan.noise,
                WAVE_VECTOR * plan.pulse_s**2,
                float(shares[index, axis]),
                settings.atoms,
                (float(fringe.offset[axis]), float(fringe.contrast[axis])),
            )
            before[index, axis], after[index, axis] = old.deviation, new.deviation
            change[index, axis] = new.mean - old.mean
            wandered = math.hypot(new.deviation, _WANDERING / math.sqrt(settings.rate))
            known[axis] = replace(new, deviation=wandered)
    pulses_s = np.array([[plan.pulse_s for plan in row] for row in plans])
    return Interrogation(
        at_s=plans[0][0].at_s, pulses_s=pulses_s, before=before, after=after, change=change
    )


@classical
def drifts(
    trials: Sequence[Leg], interrogations: Mapping[str, Sequence[Interrogation]]
) -> dict[str, _Values]:
    """Navigate every trial in every way; the distance from the truth, (trials, times) for each."""
    return navigated_all(trials, interrogations, fan_out)


def navigated_all(
    trials: Sequence[Leg],
    interrogations: Mapping[str, Sequence[Interrogation]],
    spread: Callable[..., Iterable[dict[str, _Values]]],
) -> dict[str, _Values]:
    """Navigate as `drifts` does; ``spread`` applies a function to each trial, as `map` does."""
    work = [
        (
            trial,
            {
                name: [_of_trial(one, index) for one in found]
                for name, found in interrogations.items()
            },
        )
        for index, trial in enumerate(trials)
    ]
    at = np.linspace(0, min(trial.times[-1] for trial in trials), _PLOTTED)
    done = list(spread(partial(_navigated, at), work))
    return {name: np.array([one[name] for one in done]) for name in done[0]}


def _of_trial(one: Interrogation, index: int) -> list[Correction]:
    return [
        Correction(
            at_s=one.at_s,
            before=float(one.before[index, axis]),
            after=float(one.after[index, axis]),
            change=float(one.change[index, axis]),
        )
        for axis in range(3)
    ]


def _navigated(
    at: _Values, work: tuple[Leg, Mapping[str, list[list[Correction]]]]
) -> dict[str, _Values]:
    trial, corrections = work
    errors = trial.read - trial.truth
    bias = trial.rested.mean(axis=0) - trial.at_rest
    axes: dict[str, list[_Values]] = {
        FREE: [drift(trial.times, errors[:, axis]) for axis in range(3)],
        CALIBRATED: [drift(trial.times, errors[:, axis] - bias[axis]) for axis in range(3)],
    }
    for name, found in corrections.items():
        axes[name] = [
            drift_corrected(
                trial.times,
                errors[:, axis],
                [one[axis] for one in found],
                noise=float(trial.noise[axis]),
            )
            for axis in range(3)
        ]
    return {
        name: np.interp(at, trial.times, np.linalg.norm(three, axis=0))
        for name, three in axes.items()
    }


def _checked(given: Mapping[str, Any]) -> list[Leg]:
    """Return the trials, once all parameters have been found usable."""
    check_whole(given, {"atoms": (10, 10**6), "trials": (5, 100), "seed": (0, 2**31)})
    spans = {"rest": (0.5, 3600), "duration": (2, 3600), "rate": (0.2, 20), "gravity": (9.7, 9.9)}
    for name, (lower, upper) in spans.items():
        if not (math.isfinite(given[name]) and lower <= given[name] <= upper):
            raise InputError(f"{name} {given[name]}: expected a number from {lower:g} to {upper:g}")
    shape = (given["trials"], given["rest"], given["duration"], given["gravity"])
    if given["data"] is None:
        return generated(*shape, given["seed"])
    return trials_of(read_log(given["data"]), *shape)


@flow
@checked_by(_checked)
def sensing(
    data: str | None = None,
    trials: int = 8,
    rest: float = 5.0,
    duration: float = 30.0,
    rate: float = 2.0,
    atoms: int = 1000,
    gravity: float = 9.80665,
    seed: int = 1,
) -> dict[str, Any]:
    """Simulate a hybrid sensor; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, and `MissingExtra` where a log
    is to be read and pyulog is not installed.
    """
    runs = _checked(locals())
    settings = Interrogating(atoms=atoms, rate=rate, seed=seed)
    fringe = calibrated_fringe(settings)
    found = interrogate(runs, fringe, settings)
    source = _GENERATED if data is None else f"a sensor at rest ({Path(data).resolve().name})"
    return result(source, runs, fringe, found, drifts(runs, found))


def result(
    source: str,
    trials: Sequence[Leg],
    fringe: Fringe,
    found: Mapping[str, Sequence[Interrogation]],
    apart: Mapping[str, _Values],
) -> dict[str, Any]:
    """Return what the flow returns, from what its stages found."""
    duration_s = float(min(trial.times[-1] for trial in trials))
    apart_count = independent(trials)
    ways = [_way(name, values[:, -1], apart_count) for name, values in apart.items()]
    comparison = Comparison(
        ways=[way for way in ways if way.name in (ADAPTIVE, FREE, CALIBRATED)],
        measure=f"drift in m after {duration_s:.3g} s",
        higher_is_better=False,
        data=f"{source}; sensor simulation",
    )
    courses = {name: _course(trials, ours) for name, ours in found.items()}
    lost = {name: _lost(course) for name, course in courses.items()}
    title = f"Sensor simulation, no measured atoms: {counted(len(trials), 'trial')} from {source}"
    pulse_s = float(np.median(courses[ADAPTIVE].pulses_s[-1]))
    return {
        "is_sensor_simulation": True,
        "source": source,
        "trials": len(trials),
        "duration_s": duration_s,
        "drifts": {
            way.name: {
                "drift_m": way.figure.value,
                "std_error": way.figure.error,
                "lost": lost.get(way.name),
            }
            for way in ways
        },
        "contrast": fringe.contrast.tolist(),
        "longest_pulse_s": pulse_s,
        "comparisons": [comparison.as_record()],
        "plot": picture(title, np.linspace(0, duration_s, _PLOTTED), apart, courses[ADAPTIVE]),
        "table": {
            "columns": ["Way (sensor simulation)", "Drift / m", "± / m", "Axes with a lost fringe"],
            "rows": [
                [
                    way.name,
                    round(way.figure.value, 4),
                    round(way.figure.error, 4),
                    _share(lost.get(way.name)),
                ]
                for way in ways
            ],
        },
        "summary": [
            f"{comparison.verdict} Both are of a sensor simulation: no atom was measured.",
            f"{title}; {_of_errors(len(trials), apart_count)}.",
            (
                f"Contrast of the fringe on this QPU, estimated from shots, {fringe.contrast.min():.3f} to "
                f"{fringe.contrast.max():.3f} ± {fringe.contrast_error.max():.3f}; adaptive interrogation ended at {1000 * pulse_s:g} ms "
                "between pulses, as far as the noise of the accelerometer allows."
            ),
            (
                "The fringe was lost: "
                + ", ".join(f"{name}, {100 * share:.0f} %" for name, share in lost.items())
                + " of the axes ended with a bias more than half a fringe off."
            ),
            _caveat(source),
        ],
    }


def _way(name: str, ends: _Values, independent_trials: int) -> Way:
    """Return a way with its mean drift; the resamples of trials are the same for all ways."""
    figure, draws = resampled(
        lambda chosen: float(ends[chosen].mean()), len(ends), 0, independent_trials
    )
    return Way(name=name, figure=figure, draws=draws, is_quantum=name == ADAPTIVE)


def _of_errors(trials: int, apart: int) -> str:
    if apart == trials:
        return "errors are over the trials"
    return f"they overlap: errors are those of {apart}, as many as fit without"


def _share(lost: float | None) -> float | None:
    return None if lost is None else round(lost, 3)


def _caveat(source: str) -> str:
    if source != _GENERATED:
        return (
            "The truth of a log is that its body rests, with gravity in the mean direction of its own "
            "readings: it is partly circular."
        )
    return (
        "Drives, readings and atoms are generated; a real sensor has dead times, laser noise and "
        "rotations that this model leaves out."
    )


def _course(trials: Sequence[Leg], found: Sequence[Interrogation]) -> Course:
    at_s = np.array([one.at_s for one in found])
    means = np.cumsum([one.change for one in found], axis=0)
    biases = np.stack([_bias_at(trial, at_s) for trial in trials], axis=1)
    return Course(
        at_s=at_s,
        pulses_s=np.array([one.pulses_s for one in found]),
        deviations=np.array([one.after for one in found]),
        errors=means - biases,
    )


def _bias_at(trial: Leg, at_s: _Values) -> _Values:
    """Return what readings have more than the truth, in means of two seconds, (times, 3)."""
    errors = trial.read - trial.truth
    near = [np.abs(trial.times - at) <= 1.0 for at in at_s]
    return np.array([errors[mask].mean(axis=0) for mask in near])


def _lost(course: Course) -> float:
    half_a_fringe = math.pi / (WAVE_VECTOR * course.pulses_s[-1] ** 2)
    return float((np.abs(course.errors[-1]) > half_a_fringe).mean())
