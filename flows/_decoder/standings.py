"""How well decoders do on the same shots: errors per round, and whether one is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows._comparison import Figure, bootstrapped
from flows._decoder.experiments import Bits

__all__ = ["Standing", "better", "difference", "logical_error", "per_round", "standings", "verdict"]

_SIGNIFICANT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A decoder's shares of wrong answers: of all shots where it may decode all, and of the test's.

    per_round, test_per_round: ε, with which as many rounds give that share.
    """

    name: str
    wrong: Figure | None
    per_round: Figure | None
    test_wrong: Figure
    test_per_round: Figure


def logical_error(wrong: Bits) -> Figure:
    """Return the share of wrong answers, with its binomial standard error."""
    share = float(wrong.mean())
    # A share of 0 is not exact: half a wrong answer more stands for what was not seen.
    spread = max(share * (1 - share), 0.5 / wrong.size)
    return Figure(value=share, error=math.sqrt(spread / wrong.size))


def per_round(share: Figure, rounds: int) -> Figure:
    """Return ε = (1 − (1 − 2 p)^(1/R)) / 2; half where the answers are no better than a coin."""
    left = 1 - 2 * share.value
    if left <= 0:
        return Figure(value=0.5, error=share.error)
    return Figure(
        value=(1 - left ** (1 / rounds)) / 2,
        error=share.error * left ** (1 / rounds - 1) / rounds,
    )


def standings(
    answers: Mapping[str, Bits], flips: Bits, test: NDArray[np.int64], rounds: int
) -> list[Standing]:
    """Return the decoders' standings. answers: for all shots, or for those of the test only."""
    found = []
    for name, answer in answers.items():
        every = None
        if len(answer) == len(flips):
            every = logical_error(answer != flips)
        tested = answer if every is None else answer[test]
        ours = logical_error(tested != flips[test])
        found.append(
            Standing(
                name=name,
                wrong=every,
                per_round=None if every is None else per_round(every, rounds),
                test_wrong=ours,
                test_per_round=per_round(ours, rounds),
            )
        )
    return found


def difference(first: Bits, second: Bits, seed: int) -> Figure:
    """Return by how much more often the first is wrong on the same shots, with bootstrap error."""
    return bootstrapped(first.astype(float) - second.astype(float), seed)


def better(ours: Standing, rival: Standing, apart: Figure) -> Standing | None:
    """Return the better decoder, None within the error. apart: wrong shares, ours minus rival's."""
    if abs(apart.value) <= _SIGNIFICANT * apart.error or not apart.error:
        return None
    return ours if apart.value < 0 else rival


def verdict(ours: Standing, rival: Standing, apart: Figure) -> str:
    """Return the sentence that says which decoder won; see `better`."""
    first = better(ours, rival, apart)
    if first is None:
        return (
            f"Nobody won: {ours.name} and {rival.name} err equally often within the error, "
            f"{ours.test_per_round} and {rival.test_per_round} per round."
        )
    second = rival if first is ours else ours
    return (
        f"{first.name[0].upper()}{first.name[1:]} won: error per round {first.test_per_round}, "
        f"{second.name} {second.test_per_round}; on the same shots it is wrong in "
        f"{100 * abs(apart.value):.2f} ± {100 * apart.error:.2f} % fewer."
    )
