"""How well any rule can choose a coupling by times that are wrong by a third.

``python -m benchmarks.coupling_errors`` takes the points of the sweep with up to five flows. At each
one every time is a third too long or a quarter too short, by chance. A rule sees the wrong times; the
true ones are any of those that such errors may have led from. It writes a table into
docs/explanation/couplings-measured.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from multiprocessing import Pool

import numpy as np

from benchmarks.coupling_sweep import PAGE, Case, cases, predicted, rewrite
from benchmarks.published_experiment import Phases
from orchestrator.couplings.models import CouplingPrediction
from orchestrator.couplings.replay import Preference, recommend, score

__all__ = ["main"]

_FACTORS = (3 / 4, 4 / 3)
_MOST_FLOWS = 5
_PREFERENCES: tuple[Preference, ...] = ("time", "nodes", "balanced")
_Found = Mapping[str, CouplingPrediction]


def _changed(case: Case, factors: tuple[float, float, float, float]) -> Case:
    """Return a case with other times of clustering, quantum stage, rating and queue."""
    clustering, quantum, rating, wait = factors
    known = case.phases
    stages = Phases(
        serial_s=known.serial_s * clustering,
        unit_s=known.unit_s * clustering,
        quantum_s=known.quantum_s * quantum,
        rating_s=known.rating_s * rating,
    )
    return replace(case, wait_s=case.wait_s * wait, stages=stages)


def _may_be(known: Case) -> Iterator[Case]:
    """Yield the cases whose times may be the true ones."""
    for factors in product(_FACTORS, _FACTORS, _FACTORS, _FACTORS if known.wait_s else (1.0,)):
        yield _changed(known, factors)


def _factors(found: _Found, prefer: Preference) -> dict[str, float]:
    """Return by which factor each coupling is behind the best one."""
    scores = {name: score(one, prefer) for name, one in found.items()}
    return {name: one / min(scores.values()) for name, one in scores.items()}


def _outcomes(numbered: tuple[int, Case]) -> list[tuple[float, float, float, float]]:
    """Return by preference how far three rules are behind, and what the best can promise."""
    number, case = numbered
    errors = np.random.default_rng(number).choice(_FACTORS, 4).tolist()
    known = _changed(case, tuple(errors))
    true, expected = predicted(case), predicted(known)
    possible = [predicted(one) for one in _may_be(known)]
    rows = []
    for prefer in _PREFERENCES:
        truly = _factors(true, prefer)
        behind = [_factors(found, prefer) for found in possible]
        mean = {name: np.mean([one[name] for one in behind]) for name in truly}
        worst = {name: max(one[name] for one in behind) for name in truly}
        chosen = (
            recommend(expected, prefer),
            min(mean, key=mean.__getitem__),
            min(worst, key=worst.__getitem__),
        )
        rows.append((*(truly[name] for name in chosen), min(worst.values())))
    return rows


def main() -> None:
    """Compare the rules, and write the table into the page."""
    todo = [one for one in enumerate(cases()) if one[1].flows <= _MOST_FLOWS]
    with Pool() as processes:
        found = np.array(processes.map(_outcomes, todo, chunksize=4))
    lines = [
        "| the rule takes the coupling with | prefers | within 5 % | mean | worst | beyond 1.2 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    rules = (
        "the best prediction by the times that are known: `auto`",
        "the least mean factor over all times that may be true",
        "the least worst factor over all times that may be true",
    )
    for rule, words in enumerate(rules):
        for place, prefer in enumerate(_PREFERENCES):
            values = found[:, place, rule]
            lines.append(
                f"| {words} | {prefer} | {np.mean(values <= 1.05):.1%} | {values.mean():.3f} "
                f"| {values.max():.2f} | {np.sum(values > 1.2)} |"
            )
    lines.append("")
    for place, prefer in enumerate(_PREFERENCES):
        promised = found[:, place, 3]
        lines.append(
            f"- {prefer}: at {np.sum(promised > 1.2)} of {len(promised)} points no rule can promise "
            f"a factor below 1.2; at the worst one it is {promised.max():.2f}."
        )
    rewrite(PAGE, "errors", "\n".join(lines))


if __name__ == "__main__":
    main()
