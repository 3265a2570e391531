"""Two networks that correct the answer of matching; the same code runs on NumPy and on JAX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flows._decoder.matching import SOFT

__all__ = ["Grid", "Kind", "Parameters", "Shape", "grid_of", "initial", "logits"]

Kind = Literal["residual", "attention"]
Parameters = Mapping[str, Any]  # float32 arrays, of NumPy or JAX

_GAP_SCALE = 5.0  # gaps are mostly below it; beyond, the network need not tell them apart
_HEADS = 4
# What the linear term gives the gaps at the start: matching's own answer.
_START = (-0.5, -0.1, 0.0)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Grid:
    """Detectors as (round, stabilizer). detector: their index, or -1 where there is none."""

    detector: NDArray[np.int64]

    @property
    def rounds(self) -> int:
        """Rows: detectors of equal time."""
        return int(self.detector.shape[0])

    @property
    def stabilizers(self) -> int:
        """Columns: detectors of equal place."""
        return int(self.detector.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A network without its weights. width: of its layers. grid: what attention needs."""

    kind: Kind
    detectors: int
    width: int
    grid: Grid


def grid_of(coordinates: NDArray[np.float64]) -> Grid:
    """Return detectors by place (all coordinates but the last) and time (the last)."""
    places, place = np.unique(coordinates[:, :-1], axis=0, return_inverse=True)
    times, time = np.unique(coordinates[:, -1], return_inverse=True)
    detector = np.full((len(times), len(places)), -1)
    detector[time.ravel(), place.ravel()] = np.arange(len(coordinates))
    return Grid(detector=detector)


def initial(shape: Shape, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return weights at random, with which the network answers as matching does."""
    rng = np.random.default_rng(seed)

    def weights(fan_in: int, fan_out: int, scale: float = 1.0) -> NDArray[np.float32]:
        spread = scale * math.sqrt(2 / fan_in)
        return rng.normal(scale=spread, size=(fan_in, fan_out)).astype(np.float32)

    def zeros(size: int) -> NDArray[np.float32]:
        return np.zeros(size, dtype=np.float32)

    width = shape.width
    made = {"gap": np.array(_START, dtype=np.float32)}
    if shape.kind == "residual":
        made |= {"in_w": weights(shape.detectors + len(SOFT), width), "in_b": zeros(width)}
        for layer in (1, 2):
            made |= {f"w{layer}": weights(width, width, 0.7), f"b{layer}": zeros(width)}
        return made | {"out_w": weights(width, 1, 0.01), "out_b": zeros(1)}
    stabilizers = shape.grid.stabilizers
    made |= {
        "place": weights(width, stabilizers).T.copy(),
        "event": weights(width, 3).T.copy(),  # none, not seen, seen
        "pair": np.zeros((_HEADS, stabilizers, stabilizers), dtype=np.float32),
        "qkv_w": weights(width, 3 * width, 0.7),
        "mix_w": weights(width, width, 0.3),
        "up_w": weights(width, 2 * width),
        "up_b": zeros(2 * width),
        "down_w": weights(2 * width, width, 0.3),
        "down_b": zeros(width),
        "in_w": weights(width + len(SOFT), width),
        "in_b": zeros(width),
    }
    return made | {"out_w": weights(width, 1, 0.01), "out_b": zeros(1)}


def logits(xp: ModuleType, shape: Shape, weights: Parameters, events: Any, soft: Any) -> Any:
    """Return the log-odds that the observable flipped (shots,).

    Args:
        xp: numpy or jax.numpy.
        shape: of the network.
        weights: by name, as `initial` makes them.
        events: detection events, 0 or 1 (shots, detectors), float32.
        soft: what matching knows (shots, inputs), float32.
    """
    scaled = xp.tanh(soft / _GAP_SCALE)
    if shape.kind == "residual":
        hidden = _gelu(
            xp, xp.concatenate([1 - 2 * events, scaled], 1) @ weights["in_w"] + weights["in_b"]
        )
        for layer in (1, 2):
            hidden = hidden + _gelu(xp, hidden @ weights[f"w{layer}"] + weights[f"b{layer}"])
    else:
        state = _recurrent(xp, shape, weights, events)
        read = xp.concatenate([_normal(xp, state.mean(axis=1)), scaled], 1)
        hidden = _gelu(xp, read @ weights["in_w"] + weights["in_b"])
    return (hidden @ weights["out_w"] + weights["out_b"])[:, 0] + soft @ weights["gap"]


def _recurrent(xp: ModuleType, shape: Shape, weights: Parameters, events: Any) -> Any:
    """Return the state of each stabilizer after all rounds (shots, stabilizers, width).

    After AlphaQubit (Bausch et al., Nature 635, 834 (2024)): each round adds its events to the
    state, which then passes a block of attention among stabilizers and of a dense layer.
    """
    detector = shape.grid.detector
    state = xp.zeros((events.shape[0], shape.grid.stabilizers, shape.width), dtype=xp.float32)
    for row in detector:
        seen = events[:, np.maximum(row, 0)][:, :, None]
        there = (row >= 0)[None, :, None]
        event = weights["event"]
        added = xp.where(there, seen * event[2] + (1 - seen) * event[1], event[0])
        state = (state + added + weights["place"]) * math.sqrt(0.5)
        state = state + _attention(xp, weights, _normal(xp, state))
        up = _gelu(xp, _normal(xp, state) @ weights["up_w"] + weights["up_b"])
        state = state + up @ weights["down_w"] + weights["down_b"]
    return state


def _attention(xp: ModuleType, weights: Parameters, state: Any) -> Any:
    shots, stabilizers, width = state.shape
    each = width // _HEADS

    def heads(part: Any) -> Any:
        return part.reshape(shots, stabilizers, _HEADS, each).transpose(0, 2, 1, 3)

    query, key, value = (heads(part) for part in xp.split(state @ weights["qkv_w"], 3, axis=2))
    scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(each) + weights["pair"]
    shares = xp.exp(scores - scores.max(axis=3, keepdims=True))
    shares = shares / shares.sum(axis=3, keepdims=True)
    mixed = (shares @ value).transpose(0, 2, 1, 3).reshape(shots, stabilizers, width)
    return mixed @ weights["mix_w"]


def _normal(xp: ModuleType, state: Any) -> Any:
    centred = state - state.mean(axis=-1, keepdims=True)
    return centred / xp.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)


def _gelu(xp: ModuleType, x: Any) -> Any:
    return 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
