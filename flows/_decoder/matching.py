"""Minimum-weight perfect matching with PyMatching, and how sure it is of its answer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows._decoder.experiments import Bits, unpacked

if TYPE_CHECKING:
    import pymatching
    import stim

__all__ = [
    "SOFT",
    "Drawing",
    "Matched",
    "TrainingShots",
    "drawn",
    "matched",
    "soft_inputs",
    "with_detector",
]

_Floats = NDArray[np.float32]

# What `soft_inputs` gives for each shot.
SOFT = ("correlated gap", "gap", "correlated answer")
_LARGEST_GAP = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """So many shots to draw from a model, with the matching's gaps. detectors: of the model."""

    model: str
    detectors: int
    shots: int
    seed: int


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class TrainingShots:
    """Shots for training: packed detection events, soft inputs (see `SOFT`), observable's flips.

    Soft inputs may be of half precision: there are many, and they travel between workers.
    """

    packed: NDArray[np.uint8]
    soft: NDArray[np.floating]
    flips: Bits

    @staticmethod
    def joined(parts: list[TrainingShots]) -> TrainingShots:
        """Return all shots of several parts, in their order."""
        return TrainingShots(
            packed=np.concatenate([part.packed for part in parts]),
            soft=np.concatenate([part.soft for part in parts]),
            flips=np.concatenate([part.flips for part in parts]),
        )


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Matched:
    """Shots to decode by matching. correlated: in two passes, the second with updated weights."""

    model: str
    detectors: int
    packed: NDArray[np.uint8]
    correlated: bool


def matched(asked: Matched) -> Bits:
    """Return whether matching says that the observable flipped (shots,)."""
    decoder = _matching(asked.model, asked.correlated)
    found = decoder.decode_batch(
        unpacked(asked.packed, asked.detectors), enable_correlations=asked.correlated
    )
    return np.asarray(found[:, 0], dtype=bool)


def drawn(asked: Drawing) -> TrainingShots:
    """Draw shots from a model, with soft inputs."""
    import stim

    sampler = stim.DetectorErrorModel(asked.model).compile_sampler(seed=asked.seed)
    events, flips, _ = sampler.sample(asked.shots)
    return TrainingShots(
        packed=np.packbits(events, axis=1, bitorder="little"),
        soft=soft_inputs(asked.model, events).astype(np.float16),
        flips=flips[:, 0],
    )


def soft_inputs(model: str, events: Bits) -> _Floats:
    """Return what matching knows of each shot (shots, inputs), as `SOFT` lists it.

    A gap is the weight of the best explanation in which the observable flips less that of the best
    one in which it does not: the logarithm of how much likelier the latter is. The observable
    becomes one more detector, which is fixed to either value (Gidney et al., arXiv:2312.04522).
    The correlated answer is 1 for no flip, -1 for a flip.
    """
    matching = _matching(with_detector(model), True)
    weights = {}
    for flipped in (False, True):
        fixed = np.concatenate([events, np.full((len(events), 1), flipped)], axis=1)
        for correlated in (True, False):
            _, found = matching.decode_batch(
                fixed, return_weights=True, enable_correlations=correlated
            )
            weights[flipped, correlated] = found
    answer = _matching(model, True).decode_batch(events, enable_correlations=True)[:, 0]
    columns = [
        weights[True, True] - weights[False, True],
        weights[True, False] - weights[False, False],
        1.0 - 2.0 * answer,
    ]
    bounded = np.clip(np.stack(columns, axis=1), -_LARGEST_GAP, _LARGEST_GAP)
    return np.asarray(bounded, dtype=np.float32)


# Asked for with every shot that is decoded alone.
@functools.lru_cache(maxsize=8)
def with_detector(model: str) -> str:
    """Return a model in which the observable is one more detector, the last.

    Raises ValueError if an error would then have a part with more than two detectors, which no
    matching can use: the observable must flip with errors at the boundary only.
    """
    import stim

    given = stim.DetectorErrorModel(model)
    last = given.num_detectors
    made = stim.DetectorErrorModel()
    for step in given.flattened():
        if step.type != "error":
            continue
        targets = [
            stim.target_relative_detector_id(last) if one.is_logical_observable_id() else one
            for one in step.targets_copy()
        ]
        if _widest_part(targets) > 2:
            raise ValueError(f"{step}: an error with two detectors and the observable in one part")
        made.append("error", step.args_copy(), targets)
    return str(made)


def _widest_part(targets: list[stim.DemTarget]) -> int:
    widest = width = 0
    for one in targets:
        width = 0 if one.is_separator() else width + 1
        widest = max(widest, width)
    return widest


# Two models of an experiment, each as it is and with the observable as a detector.
@functools.lru_cache(maxsize=8)
def _matching(model: str, correlated: bool) -> pymatching.Matching:
    import pymatching
    import stim

    return pymatching.Matching.from_detector_error_model(
        stim.DetectorErrorModel(model), enable_correlations=correlated
    )
