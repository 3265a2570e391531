"""A flow's stages as a plain script would call them: one process, Aer's primitives, no records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from qiskit_aer.primitives import EstimatorV2, SamplerV2

from benchmarks.rows import Row, interleaved
from benchmarks.setting import scratch_run

__all__ = ["PlainQpu", "beside_plain", "plain"]

GOAL = 1.15


class PlainQpu:
    """Aer's own primitives where a stage expects a QPU."""

    name = "plain"
    target = SimpleNamespace(payload_kinds=("sampler", "estimator"))

    def sampler(self, *, default_shots: int = 1024, seed: int | None = None) -> SamplerV2:
        """Return Aer's sampler."""
        return SamplerV2(default_shots=default_shots, seed=seed)

    def estimator(self, *, precision: float | None = None, seed: int | None = None) -> EstimatorV2:
        """Return Aer's estimator."""
        options = {} if seed is None else {"run_options": {"seed_simulator": seed}}
        return EstimatorV2(options={"default_precision": precision or 0.0, **options})

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold nothing."""
        yield


def plain(stage: Any) -> Callable[..., Any]:
    """Return the function of a stage, without Prefect, Dask and broker."""
    function: Callable[..., Any] = stage.fn.__wrapped__
    return function


def beside_plain(
    name: str,
    flow: Callable[[int], object],
    script: Callable[[int], object],
    *,
    rounds: int = 5,
    profiles: Sequence[str] = (),
    other: str = "the same algorithm as a plain script with Aer, one process",
    has_goal: bool = True,
) -> Row:
    """Time a flow and the plain script in turn, both with the seeds 0, 1, …; no call is cached."""
    seeds = {"flow": iter(range(10**6)), "script": iter(range(10**6))}
    with scratch_run("-".join(name.replace(".", " ").split()), profiles):
        ours_s, plain_s = interleaved(
            [lambda: flow(next(seeds["flow"])), lambda: script(next(seeds["script"]))],
            rounds=rounds,
            warmup=1,
        )
    return Row(
        name=name,
        ours=f"{ours_s:.1f} s",
        against=f"{plain_s:.1f} s",
        what=f"{other}; both warm",
        ratio=ours_s / plain_s,
        goal=f"≤ {GOAL} times" if has_goal else "stated",
        met=ours_s <= GOAL * plain_s if has_goal else None,
    )
