"""What each payload kind gives to the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backends.api import Target
from backends.payloads import Payload, kind_names
from backends.plugins import PluginUnusable, load
from backends.testing.annealing import (
    ANNEALING_CHECKS,
    lengthy_annealing,
    smallest_annealing,
)
from backends.testing.cases import (
    Native,
    lengthy_estimates,
    lengthy_samples,
    smallest_estimate,
    smallest_sample,
)
from backends.testing.physics import ESTIMATOR_CHECKS, SAMPLER_CHECKS, Trial
from backends.testing.rydberg import ANALOG_CHECKS, lengthy_sequences, smallest_sequence

__all__ = ["GROUP", "PayloadCases", "cases_of", "checks"]

GROUP = "hpcqc.payload_cases"


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadCases:
    """Payloads of one kind for any target that takes it, and what must come out of a backend.

    A package registers them under the kind's name in the entry point group ``hpcqc.payload_cases``.

    smallest: the least work, with so many shots. lengthy: work that takes as long as a target lets
    it, within reason. Both get the target and what brings a circuit into its gates.
    checks: each runs payloads by `Trial.run`, and fails as a test does; it raises `NotApplicable`
    where the target is too small for it.
    """

    smallest: Callable[[Target, Native, int], Payload]
    lengthy: Callable[[Target, Native], Payload]
    checks: tuple[Callable[[Trial], None], ...] = ()


_OWN = {
    "sampler": PayloadCases(
        smallest=smallest_sample, lengthy=lengthy_samples, checks=SAMPLER_CHECKS
    ),
    "estimator": PayloadCases(
        smallest=smallest_estimate, lengthy=lengthy_estimates, checks=ESTIMATOR_CHECKS
    ),
    "analog": PayloadCases(
        smallest=smallest_sequence, lengthy=lengthy_sequences, checks=ANALOG_CHECKS
    ),
    "annealing": PayloadCases(
        smallest=smallest_annealing, lengthy=lengthy_annealing, checks=ANNEALING_CHECKS
    ),
}


def cases_of(kind: str) -> PayloadCases:
    """Return the cases of a kind. Raises ``UnknownPlugin`` or ``PluginUnusable``."""
    if kind in _OWN:
        return _OWN[kind]
    found: Any = load(GROUP, kind, noun="set of payload cases")
    if not isinstance(found, PayloadCases):
        raise PluginUnusable(
            f"payload cases {kind!r} are {found!r}; expected a backends.testing.PayloadCases"
        )
    return found


def checks() -> list[tuple[str, Callable[[Trial], None]]]:
    """Return every check of every installed kind, with the kind's name."""
    return [(kind, check) for kind in kind_names() for check in cases_of(kind).checks]
