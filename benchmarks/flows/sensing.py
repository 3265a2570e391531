"""What `flows.sensing` costs beside the same simulation as a plain script."""

from __future__ import annotations

from benchmarks.flows.plain import PlainQpu, beside_plain, plain
from benchmarks.rows import Row
from flows import sensing as module

__all__ = ["measure"]


def _script(seed: int) -> None:
    trials = module.generated(8, 5.0, 30.0, 9.80665, seed)
    settings = module.Interrogating(atoms=1000, rate=2.0, seed=seed)
    qpu = PlainQpu()
    fringe = plain(module.calibrated_fringe)(qpu, settings)
    found = plain(module.interrogate)(qpu, trials, fringe, settings)
    apart = module.navigated_all(trials, found, map)
    module.result("generated drives", trials, fringe, found, apart)


def measure() -> list[Row]:
    """Time the default run."""
    return [beside_plain("flows.sensing", lambda seed: module.sensing(seed=seed), _script)]
