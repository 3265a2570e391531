"""What `flows.decoder` costs beside the same decoders as a plain script."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

from backends.profiles import load_profile
from benchmarks.flows.plain import beside_plain, plain
from benchmarks.rows import Row
from flows import decoder as module
from flows._decoder.codes import Memory, noise_of_profile
from flows._decoder.experiments import Experiment
from flows._decoder.networks import Shape, grid_of
from flows._decoder.trained import Trained
from flows._decoder.training import Learned, Schedule

__all__ = ["SAMPLES", "measure", "plainly_generated", "plainly_learned", "plainly_matched"]

SAMPLES = 600_000
_SHOTS, _WIDTH = 50_000, 192


def plainly_generated(seed: int) -> Experiment:
    """Generate the flow's default experiment."""
    noise = noise_of_profile(load_profile("ibm-fez"))
    memory = Memory(code="surface", distance=3, rounds=5, basis="z")
    experiment: Experiment = plain(module.generated)(memory, noise, _SHOTS, seed)
    return experiment


def plainly_learned(
    seed: int, samples: int, measured_passes: int
) -> tuple[Experiment, Trained, Learned]:
    """Train the network for the flow's default experiment."""
    experiment = plainly_generated(seed)
    shape = Shape(
        kind="residual",
        detectors=experiment.detectors,
        width=_WIDTH,
        grid=grid_of(experiment.coordinates),
    )
    with _in_turn():
        given = plain(module.training_shots)(
            experiment.model_for_even, experiment.detectors, samples, seed
        )
    schedule = Schedule(passes=1, measured_passes=measured_passes, seed=seed)
    learned = plain(module.learn)(experiment, shape, given, schedule)
    trained = Trained(
        shape=shape,
        weights=learned.weights,
        model=experiment.model_for_even,
        title=experiment.title,
    )
    return experiment, trained, learned


def plainly_matched(experiment: Experiment) -> dict[str, Any]:
    """Decode all shots by matching, as the flow's stage does."""
    with _in_turn():
        found: dict[str, Any] = plain(module.answers)(experiment)
    return found


def _in_turn() -> Any:
    def spread(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [work(item) for item in items]

    return patch.object(module, "fan_out", spread)


def _script(seed: int) -> None:
    experiment, trained, learned = plainly_learned(seed, SAMPLES, 5)
    found = plainly_matched(experiment)
    found["network"] = plain(module.network_answers)(trained, experiment.packed[::2])
    module.result(experiment, found, trained, learned, seed)


def measure() -> list[Row]:
    """Time the default run."""
    return [
        beside_plain("flows.decoder", lambda seed: module.decoder(seed=seed), _script, rounds=3)
    ]
