"""How the stages of `flows.decoder` that draw and match get faster with a second Dask worker.

Two cores that nothing else uses are rare, so the CPU times say as well what such a machine would take.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefect import flow

from benchmarks.flows.decoder import SAMPLES, plainly_generated
from benchmarks.flows.plain import plain
from benchmarks.rows import Row
from benchmarks.setting import scratch_run
from flows import decoder as module
from flows._decoder.experiments import Experiment
from flows._decoder.matching import TrainingShots
from hpcqc import classical
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.resources import resources

__all__ = ["measure"]

_ROUNDS = 5
_SCALES = 1.8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """Of a pass over the stages, in seconds.

    workers: CPU time of all workers; halved: that with the scheduler's and the flow's, on two cores
    evenly. Of a busy machine's workers the one with more of the cores does more units.
    """

    wall: float
    workers: float
    halved: float


@flow
def _drawn_and_matched(draw: Any, match: Any, experiment: Experiment, seed: int) -> TrainingShots:
    """Draw and match as the flow's defaults do, both stages at once."""
    drawn = draw.submit(experiment.model_for_even, experiment.detectors, SAMPLES, seed)
    match(experiment)
    shots: TrainingShots = drawn.result()
    return shots


class _Workers:
    """The stages that draw and match on the workers of one compute."""

    def __init__(self, compute: str, experiment: Experiment) -> None:
        """Take the functions of the stages as they are in the flow."""
        self._compute, self._experiment = compute, experiment
        self._draw = classical(compute=compute)(plain(module.training_shots))
        self._match = classical(compute=compute)(plain(module.answers))

    def cost(self, seed: int) -> _Cost:
        """Return what both stages take."""
        # Under another title, or the answers of an earlier turn were taken again.
        experiment = replace(self._experiment, title=f"{self._compute} {seed}")
        before, start = self._used(), time.perf_counter()
        _drawn_and_matched(self._draw, self._match, experiment, seed)
        wall, after = time.perf_counter() - start, self._used()
        *used, scheduler, own = (after[process] - before[process] for process in after)
        halved = (sum(used) + scheduler + own) / 2
        return _Cost(wall=wall, workers=sum(used), halved=halved)

    def _used(self) -> dict[str, float]:
        """Return the CPU time of each worker, of the scheduler and of this process, in this order."""
        compute: Any = resources().compute(self._compute)
        client = compute.client()
        client.wait_for_workers(compute.workers)
        return {
            **dict(sorted(client.run(time.process_time).items())),
            "scheduler": client.run_on_scheduler(time.process_time),
            "flow": time.process_time(),
        }


def _costs(arms: Sequence[_Workers]) -> list[_Cost]:
    """Return the medians of each; a first turn only loads libraries."""
    turns = [
        [arm.cost(len(arms) * turn + index) for index, arm in enumerate(arms)]
        for turn in range(_ROUNDS + 1)
    ]
    return [
        _Cost(
            wall=statistics.median(one.wall for one in column),
            workers=statistics.median(one.workers for one in column),
            halved=statistics.median(one.halved for one in column),
        )
        for column in zip(*turns[1:], strict=True)
    ]


def measure() -> list[Row]:
    """Compare one worker with two, in turn, by the clock and by the CPU time of the workers."""
    computes = [ComputeSettings(name=name, workers=n) for n, name in ((1, "one"), (2, "two"))]
    with scratch_run("decoder-scaling", computes=computes):
        experiment = plainly_generated(1)
        one, two = _costs([_Workers(name, experiment) for name in ("one", "two")])
    by_clock, by_cpu = one.wall / two.wall, one.workers / two.halved
    return [
        Row(
            name="drawing and matching of flows.decoder on two workers",
            ours=f"{two.wall:.2f} s",
            against=f"{one.wall:.2f} s",
            what="one worker",
            ratio=by_clock,
            goal=f"≥ {_SCALES} times",
            met=by_clock >= _SCALES,
        ),
        Row(
            name="the same from CPU times, as two cores would share them evenly",
            ours=f"{two.halved:.2f} s",
            against=f"{one.workers:.2f} s",
            what=f"CPU time of the one worker; of both of two {two.workers:.2f} s",
            ratio=by_cpu,
            goal=f"≥ {_SCALES} times",
            met=by_cpu >= _SCALES,
        ),
    ]
