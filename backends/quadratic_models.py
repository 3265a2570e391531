"""Binary quadratic models: energies of spins, or of bits, that annealers minimise.

It needs no more than NumPy, so that it runs in the environment of any SDK.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backends.errors import PayloadRejected

__all__ = ["BINARY", "MOST_VARIABLES", "SPIN", "BinaryQuadraticModel"]

# The values of the variables: -1 and 1, or 0 and 1.
SPIN, BINARY = "SPIN", "BINARY"
# More than any annealer takes, hybrid solvers included.
MOST_VARIABLES = 2_000_000
# Above it, no sum of energies is sure to be finite.
_LARGEST = 1e150
# 32 MiB, several times.
_NUMBERS_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False, kw_only=True)
class BinaryQuadraticModel:
    """Energies E(x) = offset + Σ linear_i x_i + Σ quadratic_k x_i x_j over pairs k = (i, j).

    vartype: `SPIN` (x is -1 or 1) or `BINARY` (0 or 1). linear: shape (variables,). pairs: shape
    (interactions, 2), each i < j, sorted, none twice. quadratic: shape (interactions,), none 0.
    `of` brings any input into this form.
    """

    vartype: str
    linear: NDArray[np.float64]
    pairs: NDArray[np.int32]
    quadratic: NDArray[np.float64]
    offset: float = 0.0

    def __eq__(self, other: object) -> bool:
        """Whether another model has the same energies for the same reasons."""
        if not isinstance(other, BinaryQuadraticModel):
            return NotImplemented
        return (
            (self.vartype, self.offset) == (other.vartype, other.offset)
            and np.array_equal(self.linear, other.linear)
            and np.array_equal(self.pairs, other.pairs)
            and np.array_equal(self.quadratic, other.quadratic)
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    @classmethod
    def of(
        cls,
        linear: Sequence[float] | Mapping[int, float] | NDArray[np.float64],
        quadratic: Mapping[tuple[int, int], float] | Iterable[tuple[int, int, float]] = (),
        *,
        vartype: str = BINARY,
        offset: float = 0.0,
    ) -> Self:
        """Build a model from mappings or lists.

        Args:
            linear: One number for each variable, or a mapping from numbers of variables; a
                variable that only ``quadratic`` names has 0.
            quadratic: Numbers by pair, or tuples (i, j, number). Several of one pair add.
            vartype: `BINARY` or `SPIN`.
            offset: Energy that every sample has.

        Returns:
            The model in canonical form.

        Raises:
            PayloadRejected: Numbers that are not finite or too large, an interaction of a variable
                with itself, or numbers of variables that are not whole or below 0.

        >>> model = BinaryQuadraticModel.of([1, 1], {(1, 0): -3})
        >>> model.energies([[0, 0], [1, 1]]).tolist()
        [0.0, -1.0]
        """
        single = linear if isinstance(linear, Mapping) else dict(enumerate(linear))
        given = (
            [(*pair, strength) for pair, strength in quadratic.items()]
            if isinstance(quadratic, Mapping)
            else list(quadratic)
        )
        try:
            named = {_variable(i): float(number) for i, number in single.items()}
            coupled: dict[tuple[int, int], float] = {}
            for i, j, strength in given:
                pair = _pair(i, j)
                coupled[pair] = coupled.get(pair, 0.0) + float(strength)
            offset = float(offset)
        except (TypeError, ValueError, OverflowError) as error:
            raise PayloadRejected(
                f"a binary quadratic model with {error}; give numbers, and pairs (i, j) of two variables"
            ) from None
        size = 1 + max([*named, *(j for _, j in coupled)], default=-1)
        values = np.zeros(size)
        for i, number in named.items():
            values[i] = number
        pairs = sorted(pair for pair, strength in coupled.items() if strength != 0)
        return cls(
            vartype=str(vartype),
            linear=values + 0.0,  # without negative zeros
            pairs=np.array(pairs, dtype=np.int32).reshape(-1, 2),
            quadratic=np.array([coupled[pair] for pair in pairs], dtype=np.float64),
            offset=offset + 0.0,
        ).checked()

    @classmethod
    def coerce(cls, model: Any) -> BinaryQuadraticModel:
        """Return a model as one in canonical form.

        Args:
            model: One of this class, or of dimod with variables numbered from 0.

        Returns:
            The model.

        Raises:
            PayloadRejected: Anything else was given.
        """
        if isinstance(model, BinaryQuadraticModel):
            return model.checked()
        vartype = getattr(getattr(model, "vartype", None), "name", None)
        if vartype is None or not hasattr(model, "linear") or not hasattr(model, "quadratic"):
            raise PayloadRejected(
                f"got {type(model).__name__} where a binary quadratic model is expected; build one "
                "with BinaryQuadraticModel.of, or give one of dimod"
            )
        names = list(model.linear)
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise PayloadRejected(
                f"a model whose variables are {names!r:.60}; number them from 0 to "
                f"{len(names) - 1}, with relabel_variables in dimod"
            )
        return cls.of(
            {int(i): model.linear[i] for i in names},
            {(int(i), int(j)): strength for (i, j), strength in model.quadratic.items()},
            vartype=vartype,
            offset=model.offset,
        )

    @property
    def num_variables(self) -> int:
        """How many variables a sample has."""
        return len(self.linear)

    @property
    def terms(self) -> int:
        """How many numbers state the model, the offset not counted."""
        return len(self.linear) + len(self.quadratic)

    def checked(self) -> Self:
        """Check that the model is in canonical form.

        Returns:
            The model itself.

        Raises:
            PayloadRejected: It is not, or it has numbers that are not finite or too large.
        """
        if self.vartype not in (SPIN, BINARY):
            raise PayloadRejected(f"vartype {self.vartype!r:.40}; use {SPIN!r} or {BINARY!r}")
        if not 0 < len(self.linear) <= MOST_VARIABLES:
            raise PayloadRejected(
                f"a model of {len(self.linear)} variables; give 1 to {MOST_VARIABLES}"
            )
        for name, numbers in (
            ("linear", self.linear),
            ("quadratic", self.quadratic),
            ("offset", np.array([self.offset])),
        ):
            if not (np.abs(numbers) < _LARGEST).all():
                bad = numbers[~(np.abs(numbers) < _LARGEST)][0]
                raise PayloadRejected(
                    f"{name} has the number {bad}; give finite ones, below {_LARGEST:g}"
                )
        if self.pairs.shape != (len(self.quadratic), 2) or not (self.quadratic != 0).all():
            raise PayloadRejected("quadratic: give one number other than 0 for each pair")
        if len(self.pairs):
            low, high = self.pairs[:, 0].astype(np.int64), self.pairs[:, 1].astype(np.int64)
            place = low * self.num_variables + high
            within = low.min() >= 0 and high.max() < self.num_variables
            if not (within and (low < high).all() and (np.diff(place) > 0).all()):
                raise PayloadRejected("pairs: give each (i, j) once, sorted, with 0 <= i < j")
        return self

    def energies(self, samples: ArrayLike) -> NDArray[np.float64]:
        """Compute the energy of each sample.

        Args:
            samples: Values of the variables, shape (samples, variables).

        Returns:
            Energies, shape (samples,).
        """
        values = np.asarray(samples).reshape(-1, self.num_variables)
        found = np.full(len(values), self.offset, dtype=np.float64)
        # A dense model has far more interactions than variables: a few samples at a time.
        at_once = max(1, _NUMBERS_AT_ONCE // max(self.num_variables, len(self.quadratic)))
        for first in range(0, len(values), at_once):
            some = values[first : first + at_once].astype(np.float64)
            pairs = some[:, self.pairs[:, 0]] * some[:, self.pairs[:, 1]]
            found[first : first + at_once] += some @ self.linear + pairs @ self.quadratic
        return found

    def as_vartype(self, vartype: str) -> BinaryQuadraticModel:
        """Return the same energies over spins s = 2x - 1, or over bits x = (1 + s) / 2.

        Args:
            vartype: `SPIN` or `BINARY`.

        Returns:
            The model; itself if it has that vartype.

        Raises:
            PayloadRejected: It is another vartype.
        """
        if vartype == self.vartype:
            return self
        if vartype not in (SPIN, BINARY):
            raise PayloadRejected(f"vartype {vartype!r:.40}; use {SPIN!r} or {BINARY!r}")
        coupled = np.zeros(self.num_variables)
        np.add.at(coupled, self.pairs.ravel(), np.repeat(self.quadratic, 2))
        total, pulls = math.fsum(self.quadratic), math.fsum(self.linear)
        if vartype == SPIN:
            linear, quadratic = self.linear / 2 + coupled / 4, self.quadratic / 4
            offset = self.offset + pulls / 2 + total / 4
        else:
            linear, quadratic = 2 * (self.linear - coupled), 4 * self.quadratic
            offset = self.offset - pulls + total
        left = quadratic != 0  # a quarter of the least number there is, is 0
        return BinaryQuadraticModel(
            vartype=vartype,
            linear=linear + 0.0,
            pairs=self.pairs[left],
            quadratic=quadratic[left],
            offset=offset + 0.0,
        )


def _variable(number: Any) -> int:
    if isinstance(number, bool) or int(number) != number or not 0 <= number < MOST_VARIABLES:
        raise ValueError(f"variable {number!r:.40}, which is none from 0 to {MOST_VARIABLES - 1}")
    return int(number)


def _pair(i: Any, j: Any) -> tuple[int, int]:
    one, other = _variable(i), _variable(j)
    if one == other:
        raise ValueError(f"the pair ({one}, {other})")
    return min(one, other), max(one, other)
