"""What `flows.household` costs beside the same control as a plain script."""

from __future__ import annotations

from benchmarks.flows.plain import PlainQpu, beside_plain, plain
from benchmarks.rows import Row
from flows import household as module
from flows._household.homes import generated

__all__ = ["measure"]


def _script(seed: int) -> None:
    homes = generated(12, 364, seed)
    trained, tested = homes.part(range(6)), homes.part(range(6, 12))
    plans = module.planned_all(tested, map)
    prepared = plain(module.prepare)(trained, seed)
    network = module.evolved_network(prepared, seed)
    plan = module.EvolutionPlan(seed=seed)
    circuit = module.evolved_circuit(PlainQpu(), prepared, plan, map)
    module.result(trained, tested, prepared, plans, circuit, network)


def measure() -> list[Row]:
    """Time the default run."""
    return [
        beside_plain("flows.household", lambda seed: module.household(seed=seed), _script, rounds=3)
    ]
