"""Small dense networks, trained from a seed with JAX and Optax, used with NumPy alone."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Network", "Training", "trained"]

_Values = NDArray[np.float64]
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a network is trained.

    hidden: neurons of each hidden layer; none for a linear model. loss: of classes, the inputs'
    labels being 0 or 1, or of values. epochs: passes over the data; rate: of Adam at its start, from
    which it falls to 0 as a cosine; decay: of the weights, decoupled (AdamW).
    """

    hidden: tuple[int, ...] = (64, 64)
    loss: Literal["classes", "values"] = "classes"
    epochs: int = 60
    batch: int = 128
    rate: float = 3e-3
    decay: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """A trained network. layers: weights (inputs, outputs) and biases of each."""

    layers: tuple[tuple[_Values, _Values], ...]
    shift: _Values
    scale: _Values

    def __call__(self, inputs: ArrayLike) -> _Values:
        """Return an output for each row of inputs (items, features): (items, outputs).

        Outputs of a network of classes are logits: positive where 1 is likelier than 0.
        """
        found = (np.asarray(inputs, dtype=float) - self.shift) / self.scale
        for weights, biases in self.layers[:-1]:
            found = np.maximum(found @ weights + biases, 0.0)
        weights, biases = self.layers[-1]
        return np.asarray(found @ weights + biases)


def trained(inputs: ArrayLike, targets: ArrayLike, training: Training) -> Network:
    """Train a network; equal arguments give equal networks on the same machine.

    Args:
        inputs: (items, features); each feature is standardised by its mean and spread here.
        targets: (items,) or (items, outputs): labels 0 and 1, or values.
        training: how.

    Returns:
        The network after the last epoch.
    """
    features = np.asarray(inputs, dtype=float)
    wanted = np.asarray(targets, dtype=float).reshape(len(features), -1)
    shift, scale = features.mean(axis=0), np.maximum(features.std(axis=0), _LEAST_SPREAD)
    offset, spread = np.zeros(wanted.shape[1]), np.ones(wanted.shape[1])
    if training.loss == "values":  # learned in units of their spread, too
        offset, spread = wanted.mean(axis=0), np.maximum(wanted.std(axis=0), _LEAST_SPREAD)
    *hidden, (weights, biases) = _fitted(
        (features - shift) / scale, (wanted - offset) / spread, training
    )
    last = (weights * spread, biases * spread + offset)
    return Network(layers=(*hidden, last), shift=shift, scale=scale)


def _fitted(
    inputs: _Values, targets: _Values, training: Training
) -> tuple[tuple[_Values, _Values], ...]:
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(training.seed)
    batch = min(training.batch, len(inputs))
    order = np.stack(
        [
            row.reshape(-1, batch)
            for row in (
                rng.permutation(len(inputs))[: len(inputs) // batch * batch]
                for _ in range(training.epochs)
            )
        ]
    ).reshape(-1, batch)
    fit = _fit(training.loss, training.rate, training.decay, len(order))
    # On the CPU, also where there is a GPU: such networks are too small for one.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        start = jax.tree.map(jnp.asarray, _initial(inputs.shape[1], targets.shape[1], training))
        layers = fit(start, *map(jnp.asarray, (order, inputs, targets)))
        return tuple((np.asarray(w, dtype=float), np.asarray(b, dtype=float)) for w, b in layers)


@functools.lru_cache(maxsize=8)
def _fit(kind: str, rate: float, decay: float, steps: int) -> Any:
    """Return what trains layers in so many steps, compiled once in a process for each shape."""
    import jax
    import optax

    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=decay)

    def loss(layers: Any, rows: Any, wanted: Any) -> Any:
        for weights, biases in layers[:-1]:
            rows = jax.nn.relu(rows @ weights + biases)
        outputs = rows @ layers[-1][0] + layers[-1][1]
        if kind == "classes":
            return optax.sigmoid_binary_cross_entropy(outputs, wanted).mean()
        return optax.squared_error(outputs, wanted).mean()

    def run(start: Any, order: Any, known: Any, labels: Any) -> Any:
        def step(state: Any, rows: Any) -> Any:
            layers, memory = state
            slope = jax.grad(loss)(layers, known[rows], labels[rows])
            change, memory = optimizer.update(slope, memory, layers)
            return (optax.apply_updates(layers, change), memory), None

        return jax.lax.scan(step, (start, optimizer.init(start)), order)[0][0]

    return jax.jit(run)


def _initial(inputs: int, outputs: int, training: Training) -> Sequence[tuple[_Values, _Values]]:
    """Return weights of He's spread, in which signals neither grow nor vanish."""
    rng = np.random.default_rng([training.seed, 1])
    widths = (inputs, *training.hidden, outputs)
    return [
        (rng.normal(0.0, np.sqrt(2.0 / before), (before, after)), np.zeros(after))
        for before, after in itertools.pairwise(widths)
    ]
