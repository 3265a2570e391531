"""What `flows.realtime` costs beside the same stages as a plain script; the wire is part of both."""

from __future__ import annotations

from benchmarks.flows.decoder import plainly_learned, plainly_matched
from benchmarks.flows.plain import beside_plain, plain
from benchmarks.rows import Row
from flows import realtime as module

__all__ = ["measure"]


def _script(seed: int) -> None:
    experiment, trained, _ = plainly_learned(seed, 100_000, 3)
    known = plainly_matched(experiment)["correlated matching"][::2]
    asked = {"streamed": 1000, "timeout_s": 1.0, "server": None}
    found = plain(module.stream)(experiment, trained, "network", asked)
    module.result(experiment, "network", found, known[: len(found.answers)], 1000.0, seed)


def measure() -> list[Row]:
    """Time the default run."""
    return [
        beside_plain("flows.realtime", lambda seed: module.realtime(seed=seed), _script, rounds=3)
    ]
