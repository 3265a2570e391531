"""What `flows.generative` costs beside the same search as a plain script."""

from __future__ import annotations

from unittest.mock import patch

from benchmarks.flows.plain import PlainQpu, beside_plain, plain
from benchmarks.rows import Row
from flows import generative as module
from flows._active_space import SpaceChoice
from flows._molecules import MOLECULES, Scan, built_in_curve
from flows.dissociation import Settings, exact, ground_state, integrals

__all__ = ["measure"]


def _script(seed: int) -> None:
    usual = MOLECULES["h4"]
    choice = SpaceChoice(
        basis="sto-3g", electrons=usual.electrons, orbitals=usual.orbitals, spin=None, charge=0
    )
    prepared = plain(integrals)(built_in_curve("h4", Scan(lengths=[1.0])).points[0], choice)
    lowest = plain(exact)(prepared)
    plain(ground_state)(PlainQpu(), prepared, Settings(seed=seed))
    wish = module.CircuitSearch(
        length=6, rounds=12, circuits=16, seeds=5, seed=seed, precision=None
    )
    with patch.object(module, "fan_out", lambda work, items: list(map(work, items))):
        plain(module.search)(PlainQpu(), prepared.problem, lowest, wish)


def measure() -> list[Row]:
    """Time the default run."""
    return [
        beside_plain(
            "flows.generative", lambda seed: module.generative(seed=seed), _script, rounds=3
        )
    ]
