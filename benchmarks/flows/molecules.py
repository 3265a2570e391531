"""What `flows.molecules` costs beside the same loop as a plain script."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from benchmarks.flows.plain import PlainQpu, beside_plain, plain
from benchmarks.rows import Row
from flows import molecules as module
from flows._drug_like.chemistry import read_smiles
from flows._drug_like.making import MakingSettings

__all__ = ["measure"]

_DEFAULTS = {
    "molecules": 1200,
    "epochs": 12,
    "rounds": 3,
    "samples": 250,
    "generations": 30,
    "shots": 1000,
}


def _script(seed: int) -> None:
    settings = MakingSettings(**_DEFAULTS, seed=seed)
    learned = plain(module.learn)(*read_smiles(None), settings)

    def begin(*given: Any) -> SimpleNamespace:
        made = module.made_from(*given, map)
        return SimpleNamespace(result=lambda: made)

    def draw(*given: Any) -> module.DrawnCodes:
        return module.drawn_codes(PlainQpu(), *given)

    module.searched(learned, settings, draw, begin)


def measure() -> list[Row]:
    """Time the default run."""
    return [
        beside_plain("flows.molecules", lambda seed: module.molecules(seed=seed), _script, rounds=3)
    ]
