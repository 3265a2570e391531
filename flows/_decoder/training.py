"""Training of a network in JAX: first on shots drawn from a model, then on those of the experiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._decoder.experiments import unpacked
from flows._decoder.matching import TrainingShots
from flows._decoder.networks import Shape, initial, logits

__all__ = ["Learned", "Schedule", "Step", "train"]

_DRAWN_BATCH, _MEASURED_BATCH = 1024, 256
_DRAWN_RATE, _MEASURED_RATE = 2e-3, 2e-4
_DECAY = 1e-4
# Of the measured shots, those by which the number of passes is chosen.
_HELD_OUT = 0.2
_REPORTS = 8
_CHUNK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long to train. passes: over the drawn shots; measured_passes: at most, over measured."""

    passes: int
    measured_passes: int
    seed: int
    gpu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where training stood. shots: learned from so far. loss: cross-entropy of held-out shots."""

    phase: str
    shots: int
    loss: float
    error: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Learned:
    """What training gave. measured_passes: chosen by held-out shots of the training half."""

    weights: Mapping[str, NDArray[np.float32]]
    steps: tuple[Step, ...]
    measured_passes: int


def train(
    shape: Shape, given: TrainingShots, measured: TrainingShots, schedule: Schedule
) -> Learned:
    """Train a network of this shape on drawn shots, and refine it on measured ones.

    The refinement stops after the pass with the least cross-entropy of the held-out fifth of the
    measured shots, which may be none. The same seed gives the same weights on the same machine.
    """
    import jax

    config: Any = jax.config
    if not schedule.gpu:
        config.update("jax_platforms", "cpu")
    held = max(int(_HELD_OUT * len(measured.flips)), 1)
    learn, judge = _part(measured, slice(held, None)), _part(measured, slice(0, held))
    fit = _Fit(shape)
    rng = np.random.default_rng(schedule.seed)
    weights: Any = initial(shape, schedule.seed)
    steps: list[Step] = []
    total = schedule.passes * (len(given.flips) // _DRAWN_BATCH)
    every = max(total // _REPORTS, 1)
    state = fit.start(weights, _DRAWN_RATE, max(total, 1))
    done = 0
    for batch in _batches(rng, len(given.flips), _DRAWN_BATCH, schedule.passes):
        weights, state = fit.step(weights, state, _part(given, batch))
        done += 1
        if done % every == 0:
            steps.append(fit.judged("drawn", done * _DRAWN_BATCH, weights, judge))
    best, chosen = fit.judged("drawn", done * _DRAWN_BATCH, weights, judge), 0
    kept = weights
    refining = max(schedule.measured_passes * (len(learn.flips) // _MEASURED_BATCH), 1)
    state = fit.start(weights, _MEASURED_RATE, refining)
    for number in range(1, schedule.measured_passes + 1):
        for batch in _batches(rng, len(learn.flips), _MEASURED_BATCH, 1):
            weights, state = fit.step(weights, state, _part(learn, batch))
        found = fit.judged("measured", number * len(learn.flips), weights, judge)
        steps.append(found)
        if found.loss < best.loss:
            best, chosen, kept = found, number, weights
    return Learned(
        weights={name: np.asarray(weight) for name, weight in kept.items()},
        steps=tuple(steps),
        measured_passes=chosen,
    )


def _part(shots: TrainingShots, chosen: Any) -> TrainingShots:
    return TrainingShots(
        packed=shots.packed[chosen], soft=shots.soft[chosen], flips=shots.flips[chosen]
    )


def _batches(
    rng: np.random.Generator, shots: int, size: int, passes: int
) -> Iterator[NDArray[np.int64]]:
    """Yield shots in random order; the last of a pass that fill no batch wait for the next one."""
    size = min(size, shots)
    for _ in range(passes):
        order = rng.permutation(shots)
        for start in range(0, shots - size + 1, size):
            yield order[start : start + size]


class _Fit:
    """A network's compiled steps of AdamW with a cosine schedule."""

    def __init__(self, shape: Shape) -> None:
        import jax
        import jax.numpy as jnp

        def log_odds(weights: Any, events: Any, soft: Any) -> Any:
            return logits(jnp, shape, weights, events, soft)

        self._shape = shape
        self._log_odds: Any = jax.jit(log_odds)
        self._step: Any = None

    def start(self, weights: Any, rate: float, steps: int) -> Any:
        """Begin a schedule of so many steps; return the optimiser's state."""
        import jax
        import optax

        optimiser: Any = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=_DECAY)

        def loss(weights: Any, events: Any, soft: Any, flips: Any) -> Any:
            found = self._log_odds(weights, events, soft)
            return optax.sigmoid_binary_cross_entropy(found, flips).mean()

        def step(weights: Any, state: Any, events: Any, soft: Any, flips: Any) -> Any:
            slopes = jax.grad(loss)(weights, events, soft, flips)
            changes, state = optimiser.update(slopes, state, weights)
            return optax.apply_updates(weights, changes), state

        self._step = jax.jit(step)
        return optimiser.init(weights)

    def step(self, weights: Any, state: Any, shots: TrainingShots) -> tuple[Any, Any]:
        """Return weights and state after a batch."""
        found = self._step(weights, state, *self._inputs(shots), shots.flips.astype(np.float32))
        return found[0], found[1]

    def judged(self, phase: str, shots: int, weights: Any, judge: TrainingShots) -> Step:
        """Return the cross-entropy and the share of errors of held-out shots."""
        found = [
            np.asarray(self._log_odds(weights, *self._inputs(_part(judge, slice(at, at + _CHUNK)))))
            for at in range(0, len(judge.flips), _CHUNK)
        ]
        odds = np.concatenate(found).astype(np.float64)
        signed = np.where(judge.flips, -odds, odds)
        return Step(
            phase=phase,
            shots=shots,
            loss=float(np.logaddexp(0, signed).mean()),
            error=float(((odds > 0) != judge.flips).mean()),
        )

    def _inputs(self, shots: TrainingShots) -> tuple[Any, Any]:
        events = unpacked(shots.packed, self._shape.detectors)
        return events.astype(np.float32), shots.soft.astype(np.float32)
