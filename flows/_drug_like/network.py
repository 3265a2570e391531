"""A small recurrent network that spells molecules, token by token, from a code of eight bits."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Speller", "refitted", "sampled", "trained"]

_Codes = NDArray[np.int64]
_EMBEDDED, _HIDDEN = 24, 96
_BATCH = 50


@dataclass(frozen=True, eq=False, kw_only=True)
class Speller:
    """A gated recurrent unit. weights: by name; tokens: how many; longest: spelling."""

    weights: Mapping[str, NDArray[np.float32]]
    tokens: int
    longest: int


def trained(
    spellings: NDArray[np.int64], codes: _Codes, tokens: int, epochs: int, seed: int
) -> Speller:
    """Train from a random start on spellings (molecules, longest), which -1 pads."""
    rng = np.random.default_rng(seed)
    bits = codes.shape[1]
    # A token more than there are, the end; it is the beginning, too.
    wide = _EMBEDDED + bits + _HIDDEN
    shapes = {
        "embedding": (tokens + 1, _EMBEDDED),
        "gates": (wide, 2 * _HIDDEN),
        "gates_shift": (2 * _HIDDEN,),
        "state": (wide, _HIDDEN),
        "state_shift": (_HIDDEN,),
        "out": (_HIDDEN + bits, tokens + 1),
        "out_shift": (tokens + 1,),
    }
    weights = {
        name: rng.normal(0, 1 / math.sqrt(shape[0]), shape).astype(np.float32)
        if len(shape) > 1
        else np.zeros(shape, np.float32)
        for name, shape in shapes.items()
    }
    start = Speller(weights=weights, tokens=tokens, longest=spellings.shape[1] + 1)
    return refitted(start, spellings, codes, epochs, 4e-3, seed)


def refitted(
    speller: Speller,
    spellings: NDArray[np.int64],
    codes: _Codes,
    epochs: int,
    rate: float,
    seed: int,
) -> Speller:
    """Return a network that was trained further on some spellings."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(seed)
    end = speller.tokens
    wanted = np.where(spellings < 0, end, spellings)
    wanted = np.pad(wanted, ((0, 0), (0, speller.longest - wanted.shape[1])), constant_values=end)
    # The first end counts, what follows it does not.
    counts = (np.cumsum(wanted == end, axis=1) <= 1).astype(np.float32)
    batches = math.ceil(len(wanted) / _BATCH)
    order = np.concatenate(
        [np.resize(rng.permutation(len(wanted)), (batches, _BATCH)) for _ in range(epochs)]
    )
    # Up to whole batches, so that calls with about as many spellings share what was compiled.
    unused = ((0, batches * _BATCH - len(wanted)), (0, 0))
    data = (wanted, codes.astype(np.float32), counts)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        given = [jnp.asarray(np.pad(one, unused)) for one in data]
        begin = {name: jnp.asarray(value) for name, value in speller.weights.items()}
        weights = _training(end, rate, len(order))(begin, jnp.asarray(order), *given)
        learned = {name: np.asarray(value) for name, value in weights.items()}
    return Speller(weights=learned, tokens=speller.tokens, longest=speller.longest)


@functools.lru_cache(maxsize=8)
def _training(end: int, rate: float, steps: int) -> Any:
    """Return what trains weights in so many steps, compiled once in a process for data of one shape."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def loss(weights: Any, known: Any, told: Any, counts: Any) -> Any:
        before = jnp.pad(known, ((0, 0), (1, 0)), constant_values=end)[:, :-1]

        def step(state: Any, token: Any) -> Any:
            state = _advanced(weights, state, token, told)
            return state, _logits(weights, state, told)

        _, logits = jax.lax.scan(step, jnp.zeros((_BATCH, _HIDDEN)), before.T)
        missed = optax.softmax_cross_entropy_with_integer_labels(logits, known.T)
        return (missed * counts.T).sum() / counts.sum()

    def run(begin: Any, order: Any, wanted: Any, codes: Any, counts: Any) -> Any:
        def learn(carried: Any, rows: Any) -> Any:
            weights, memory = carried
            slope = jax.grad(loss)(weights, wanted[rows], codes[rows], counts[rows])
            change, memory = optimizer.update(slope, memory, weights)
            return (optax.apply_updates(weights, change), memory), None

        return jax.lax.scan(learn, (begin, optimizer.init(begin)), order)[0][0]

    return jax.jit(run)


def sampled(speller: Speller, codes: _Codes, seed: int) -> NDArray[np.int64]:
    """Return a spelling for each code (spellings, longest), padded with -1 from its end on."""
    rng = np.random.default_rng(seed)
    weights, told = speller.weights, codes.astype(np.float32)
    end = speller.tokens
    state = np.zeros((len(codes), _HIDDEN), np.float32)
    token = np.full(len(codes), end)
    found = np.full((len(codes), speller.longest), -1)
    going = np.ones(len(codes), dtype=bool)
    for place in range(speller.longest):
        state = np.asarray(_advanced(weights, state, token, told, xp=np))
        logits = np.asarray(_logits(weights, state, told, xp=np), dtype=float)
        # The largest of logits with Gumbel noise is a draw from their distribution.
        token = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        going &= token != end
        found[going, place] = token[going]
    return found


def _advanced(weights: Any, state: Any, token: Any, told: Any, xp: Any = None) -> Any:
    """Return the next state; ``xp`` is JAX's NumPy, or NumPy."""
    if xp is None:
        import jax.numpy as xp
    read = weights["embedding"][token]
    gates = xp.concatenate([read, told, state], axis=1) @ weights["gates"] + weights["gates_shift"]
    gates = 1 / (1 + xp.exp(-gates))
    update, reset = gates[:, :_HIDDEN], gates[:, _HIDDEN:]
    new = xp.concatenate([read, told, reset * state], axis=1) @ weights["state"]
    new = xp.tanh(new + weights["state_shift"])
    return (1 - update) * state + update * new


def _logits(weights: Any, state: Any, told: Any, xp: Any = None) -> Any:
    if xp is None:
        import jax.numpy as xp
    return xp.concatenate([state, told], axis=1) @ weights["out"] + weights["out_shift"]
