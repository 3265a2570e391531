"""A model of a cold-atom accelerometer: a qubit of the QPU stands for the atoms of an axis.

Three laser pulses, T apart, split, mirror and join the clouds (Kasevich and Chu, Phys. Rev. Lett. 67,
181 (1991)): the share of atoms in the upper state is (1 − C cos φ) / 2 with φ = k a T² − the lasers'
phase. H, RZ(φ), H on a qubit has the same law, and a shot is an atom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import ParameterVector, QuantumCircuit

__all__ = [
    "LADDER_S",
    "WAVE_VECTOR",
    "Belief",
    "Fringe",
    "fringe_of",
    "interferometer",
    "longest",
    "predicted_noise",
    "seen",
    "updated",
    "upper_shares",
]

_Values = NDArray[np.float64]

# Two photons of rubidium's D2 line, which are sent against each other.
WAVE_VECTOR = 4 * math.pi / 780.241e-9
LADDER_S = (0.2e-3, 0.5e-3, 1e-3, 2e-3, 5e-3, 10e-3)
# The phase is known to this much (rad), so that a second fringe is more than five times as far.
_WIDEST_RAD = 0.5
_LEAST_POINTS, _GRID_WIDTH, _GRID_RAD = 401, 6.0, 0.1
_STEPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Fringe:
    """The share of atoms in the upper state: offset − contrast / 2 · cos φ, on each axis (3,).

    contrast_error: standard error of the contrast, by the shots that it was measured with.
    """

    offset: _Values
    contrast: _Values
    contrast_error: _Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What is known of the bias of an accelerometer: mean and standard deviation in m/s²."""

    mean: float
    deviation: float


def interferometer() -> QuantumCircuit:
    """Return the circuit: a qubit and a phase for each of the three axes."""
    phases = ParameterVector("phase", 3)
    circuit = QuantumCircuit(3)
    for axis in range(3):
        circuit.h(axis)
        circuit.rz(phases[axis], axis)
        circuit.h(axis)
    circuit.measure_all()
    return circuit


def upper_shares(measured: Any) -> _Values:
    """Return the share of ones of each axis in a bit array of shape (rows,): (rows, 3)."""
    words = np.asarray(measured.array)[..., -1]
    return np.stack([(words >> axis & 1).mean(axis=-1) for axis in range(3)], axis=-1)


def fringe_of(phases: _Values, shares: _Values, shots: int) -> Fringe:
    """Fit the fringe of each axis to shares (n, 3) at phases (n,), which cover whole turns evenly.

    Each share is of so many shots, whose noise may let the estimated contrast exceed 1.
    """
    design = np.column_stack([np.ones_like(phases), -np.cos(phases) / 2])
    (offset, contrast), *_ = np.linalg.lstsq(design, shares)
    fitted = np.clip(design @ np.stack([offset, contrast]), 0.0, 1.0)
    weights = design[:, 1] ** 2
    spread = np.sqrt(weights @ (fitted * (1 - fitted)) / shots) / weights.sum()
    return Fringe(offset=offset, contrast=contrast, contrast_error=spread)


def seen(times: _Values, accelerations: _Values, begin_s: float, pulse_s: float) -> _Values:
    """Return the mean acceleration that pulses from ``begin_s`` see: it counts most at the middle one.

    Args:
        times: Of the accelerations, (n,) in s.
        accelerations: (n, axes); linear in between.
        begin_s: Time of the first pulse.
        pulse_s: T, from pulse to pulse.

    Returns:
        The phase over k T² for each axis.
    """
    # Midpoints of equal steps; their weights are the triangle's.
    parts = (np.arange(2 * _STEPS) + 0.5) / _STEPS
    weights = np.minimum(parts, 2 - parts)
    at = begin_s + parts * pulse_s
    values = np.column_stack([np.interp(at, times, column) for column in accelerations.T])
    result: _Values = weights @ values / weights.sum()
    return result


def predicted_noise(noise: float, pulse_s: float, sample_s: float) -> float:
    """Return the standard deviation of what noisy readings say of the mean that pulses see.

    A triangle of width 2 T has the noise of a plain mean over 3/2 T; interpolation between two
    readings that are further apart than that averages them to about 2/3.
    """
    return noise * math.sqrt(min(2 / 3, sample_s / (1.5 * pulse_s)))


def longest(belief: Belief, noise: float, sample_s: float) -> float:
    """Return the longest time of the ladder at which the next phase is known well enough."""
    fit = [
        pulse_s
        for pulse_s in LADDER_S
        if WAVE_VECTOR
        * pulse_s**2
        * math.hypot(belief.deviation, predicted_noise(noise, pulse_s, sample_s))
        <= _WIDEST_RAD
    ]
    return max(fit, default=LADDER_S[0])


def updated(
    belief: Belief,
    noise: float,
    sensitivity: float,
    ones: float,
    atoms: int,
    fringe: tuple[float, float],
) -> Belief:
    """Return what is known of the bias after an interrogation at the middle of the expected fringe.

    Args:
        belief: What was known.
        noise: Standard deviation in m/s² by which the readings missed the mean that the pulses saw.
        sensitivity: k T², rad per m/s².
        ones: Share of atoms in the upper state.
        atoms: How many.
        fringe: Offset and contrast.

    Returns:
        Mean and deviation of the exact posterior, for a normal belief and binomial counts.
    """
    spread = math.hypot(belief.deviation, noise)
    # Readings are the truth plus bias plus noise: the lasers' phase follows the readings less the
    # expected bias, so that what is left of the phase is minus (error of the bias + noise).
    # Many fringes may lie within the belief, and each must be resolved.
    points = max(_LEAST_POINTS, math.ceil(2 * _GRID_WIDTH * spread * sensitivity / _GRID_RAD))
    missed = spread * np.linspace(-_GRID_WIDTH, _GRID_WIDTH, points)
    offset, contrast = fringe
    law = np.clip(
        offset - contrast / 2 * np.cos(math.pi / 2 - sensitivity * missed), 1e-6, 1 - 1e-6
    )
    logs = atoms * (ones * np.log(law) + (1 - ones) * np.log1p(-law)) - (missed / spread) ** 2 / 2
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = float(weights @ missed)
    variance = float(weights @ (missed - mean) ** 2)
    share = (belief.deviation / spread) ** 2
    left = belief.deviation**2 - share**2 * (spread**2 - variance)
    return Belief(mean=belief.mean + share * mean, deviation=math.sqrt(max(left, 1e-18)))
