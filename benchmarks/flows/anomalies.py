"""What `flows.anomalies` costs beside the same kernels and learners as a plain script."""

from __future__ import annotations

from benchmarks.flows.plain import PlainQpu, beside_plain, plain
from benchmarks.rows import Row
from flows import anomalies as module
from flows._anomalies.signals import signals_of

__all__ = ["measure"]


def _script(seed: int) -> None:
    (signals,) = signals_of("sonar", None, None)
    settings = module.KernelSettings(seed=seed)
    qpu = PlainQpu()
    whole, part = plain(module.prepare)(signals, settings)
    scored = {}
    for where, prepared in (("set", whole), ("subset", part)):
        once = prepared.reduced[: 1 if where == "subset" else None]
        made = {module.PROJECTED: plain(module.project)(qpu, once, settings)}
        if where == "subset":
            made[module.FIDELITY] = plain(module.compare_pairs)(qpu, once, settings)
        ours = {
            kind: module.learnt(prepared, found, settings, kind, map)
            for kind, found in made.items()
        }
        scored[where] = (ours, module.tried(prepared, map))
    module.result([module.outcome(whole, part, scored, seed)], settings)


def measure() -> list[Row]:
    """Time the default run on sonar."""
    flow = module.anomalies
    return [
        beside_plain("flows.anomalies", lambda seed: flow("sonar", seed=seed), _script, rounds=3)
    ]
