"""What encryption costs stages and fan-outs: the same code on workers with TLS and on some without."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import psutil
from prefect import Task, flow

from benchmarks.plain_dask import without_tls
from benchmarks.rows import Row, timed
from benchmarks.setting import scratch_run
from hpcqc import classical, fan_out
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.resources import resources

__all__ = ["measure"]

_STAGES, _UNITS, _LARGE = 200, 4000, 64
_LARGE_BYTES = 1 << 20
_ROUNDS = 21


@classical(compute="encrypted")
def on_encrypted(value: int) -> int:
    """Return the value."""
    return value


@classical(compute="plain")
def on_plain(value: int) -> int:
    """Return the value."""
    return value


def _unit(value: int) -> int:
    return value


def _large_unit(value: int) -> bytes:
    return bytes(_LARGE_BYTES) + bytes([value])


def measure() -> list[Row]:
    """Take the two in turn, in one flow, because what else the machine does falls on both."""
    computes = [ComputeSettings(name="encrypted"), ComputeSettings(name="plain")]
    with scratch_run("encryption", computes=computes):
        stages, units, large = _costs()
    return [
        _row(f"{_STAGES} no-op classical stages", _STAGES, stages, 0.9),
        _row(f"fan-out of {_UNITS} units", _UNITS, units, 0.8),
        _row(f"fan-out of {_LARGE} units that return 1 MiB each", _LARGE, large, None),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """What a call takes: by the clock, and of CPUs in this process and all below it."""

    wall_s: float
    cpu_s: float


@flow
def _costs() -> list[tuple[_Cost, _Cost]]:
    """Return what stages, units and large units cost on encrypted and on plain workers."""
    with without_tls():
        client = resources().compute("plain").client()  # type: ignore[attr-defined]
    if not client.scheduler.address.startswith("tcp://"):
        raise RuntimeError(f"{client.scheduler.address} is encrypted: nothing to compare with")
    names = ("encrypted", "plain")
    return [
        _compared([partial(_stages, stage) for stage in (on_encrypted, on_plain)]),
        _compared([partial(fan_out, _unit, range(_UNITS), compute=name) for name in names]),
        _compared([partial(fan_out, _large_unit, range(_LARGE), compute=name) for name in names]),
    ]


def _compared(calls: Sequence[Callable[[], object]]) -> tuple[_Cost, _Cost]:
    """Return the medians of two calls; each round has the order of the last one reversed."""
    costs: tuple[list[_Cost], list[_Cost]] = ([], [])
    order = list(zip(costs, calls, strict=True))
    for number in range(_ROUNDS + 1):
        for place, call in order:
            before_s = _cpu_s()
            wall_s = timed(call)
            cost = _Cost(wall_s=wall_s, cpu_s=_cpu_s() - before_s)
            if number:  # the first one is to warm up
                place.append(cost)
        order.reverse()
    encrypted, plain = costs
    return _median(encrypted), _median(plain)


def _median(costs: Sequence[_Cost]) -> _Cost:
    return _Cost(
        wall_s=statistics.median(cost.wall_s for cost in costs),
        cpu_s=statistics.median(cost.cpu_s for cost in costs),
    )


def _cpu_s() -> float:
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _stages(stage: Task[[int], int]) -> None:
    for future in stage.map(list(range(_STAGES))):
        future.result()


def _row(name: str, count: int, costs: tuple[_Cost, _Cost], least: float | None) -> Row:
    encrypted, plain = costs
    ratio = plain.wall_s / encrypted.wall_s
    return Row(
        name=name,
        ours=f"{count / encrypted.wall_s:.0f}/s",
        against=f"{count / plain.wall_s:.0f}/s",
        what=f"without TLS (CPU time with it {encrypted.cpu_s / plain.cpu_s:.2f} times)",
        ratio=ratio,
        goal="stated" if least is None else f"≥ {least:g} of it",
        met=None if least is None else ratio >= least,
    )
