"""What `flows.entanglement` costs beside the same judges as a plain script."""

from __future__ import annotations

from benchmarks.flows.plain import PlainQpu, beside_plain, plain
from benchmarks.rows import Row
from flows import entanglement as module
from flows._entanglement.judges import JudgingSettings

__all__ = ["measure"]


def _script(seed: int) -> None:
    settings = JudgingSettings(seed=seed)
    states = plain(module.draw)(2, 3000, seed)
    measured = plain(module.measure)(PlainQpu(), states, settings)
    learnt = module.learnt(states, measured, settings, map)
    known = plain(module.judge)(states, measured, settings)
    module.result(states, settings, [*learnt, *known])


def measure() -> list[Row]:
    """Time the default run."""
    return [
        beside_plain(
            "flows.entanglement", lambda seed: module.entanglement(seed=seed), _script, rounds=3
        )
    ]
