"""A small transformer that proposes sequences of tokens and is trained on the best of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["beginning", "improved", "logits", "proposed"]

_Weights = Mapping[str, NDArray[np.float32]]
_WIDTH, _HEADS, _BLOCKS = 32, 4, 2
_STEPS, _RATE = 10, 3e-3


def beginning(tokens: int, length: int, seed: int) -> _Weights:
    """Return the weights of a transformer that proposes all tokens about alike."""
    rng = np.random.default_rng([seed, 7])
    shapes = {"tokens": (tokens + 1, _WIDTH), "places": (length, _WIDTH), "out": (_WIDTH, tokens)}
    for block in range(_BLOCKS):
        shapes |= {
            f"{block}.attend": (_WIDTH, 3 * _WIDTH),
            f"{block}.mix": (_WIDTH, _WIDTH),
            f"{block}.wide": (_WIDTH, 4 * _WIDTH),
            f"{block}.narrow": (4 * _WIDTH, _WIDTH),
        }
    return {
        name: rng.normal(0, 0.3 / math.sqrt(_WIDTH), shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def logits(weights: Any, sequences: Any, xp: Any) -> Any:
    """Return the logits of each next token: (sequences, length, tokens).

    Args:
        weights: See `beginning`.
        sequences: (sequences, length), of which the token at a place is told to later places only.
        xp: NumPy, or JAX's.
    """
    count, length = sequences.shape
    start = weights["tokens"].shape[0] - 1
    before = xp.concatenate([xp.full((count, 1), start), sequences[:, :-1]], axis=1)
    state = weights["tokens"][before] + weights["places"][:length]
    hidden = xp.where(xp.tril(xp.ones((length, length))) > 0, 0.0, -1e9)
    for block in range(_BLOCKS):
        told = _normal(state, xp) @ weights[f"{block}.attend"]
        query, key, value = (
            part.reshape(count, length, _HEADS, -1).swapaxes(1, 2)
            for part in xp.split(told, 3, axis=-1)
        )
        heed = query @ key.swapaxes(2, 3) / math.sqrt(_WIDTH / _HEADS) + hidden
        heed = xp.exp(heed - heed.max(axis=-1, keepdims=True))
        heed = heed / heed.sum(axis=-1, keepdims=True)
        mixed = (heed @ value).swapaxes(1, 2).reshape(count, length, _WIDTH)
        state = state + mixed @ weights[f"{block}.mix"]
        wide = xp.maximum(_normal(state, xp) @ weights[f"{block}.wide"], 0)
        state = state + wide @ weights[f"{block}.narrow"]
    return _normal(state, xp) @ weights["out"]


def _normal(state: Any, xp: Any) -> Any:
    centred = state - state.mean(axis=-1, keepdims=True)
    return centred / xp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)


def proposed(weights: _Weights, count: int, length: int, seed: list[int]) -> NDArray[np.int64]:
    """Draw sequences, token by token."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, length), dtype=np.int64)
    for place in range(length):
        here = np.asarray(logits(weights, found[:, : place + 1], np)[:, -1], dtype=float)
        found[:, place] = (here + rng.gumbel(size=here.shape)).argmax(axis=1)
    return found


def improved(
    weights: _Weights, sequences: NDArray[np.int64], shares: NDArray[np.float64]
) -> _Weights:
    """Return weights under which sequences are likelier, each by its share."""
    import jax
    import jax.numpy as jnp

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        begin = {name: jnp.asarray(value) for name, value in weights.items()}
        found = _training()(begin, jnp.asarray(sequences), jnp.asarray(shares, jnp.float32))
        return {name: np.asarray(value) for name, value in found.items()}


@functools.cache
def _training() -> Any:
    """Return the steps of a training, compiled once in a process for sequences of one shape."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(_RATE)

    def loss(given: Any, known: Any, wanted: Any) -> Any:
        told = logits(given, known, jnp)
        missed = optax.softmax_cross_entropy_with_integer_labels(told, known).sum(axis=1)
        return (wanted * missed).sum()

    def run(given: Any, known: Any, wanted: Any) -> Any:
        def step(carried: Any, _: Any) -> Any:
            slope = jax.grad(loss)(carried[0], known, wanted)
            change, memory = optimizer.update(slope, carried[1], carried[0])
            return (optax.apply_updates(carried[0], change), memory), None

        return jax.lax.scan(step, (given, optimizer.init(given)), None, length=_STEPS)[0][0]

    return jax.jit(run)
