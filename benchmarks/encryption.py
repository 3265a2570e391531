"""What encryption costs stages and fan-outs: the same code on workers with TLS and on some without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from prefect import Task, flow

from benchmarks.plain_dask import without_tls
from benchmarks.rows import Row, interleaved
from benchmarks.setting import scratch_run
from hpcqc import classical, fan_out
from orchestrator.config.site import ComputeSettings
from orchestrator.resources import resources

__all__ = ["measure"]

_STAGES, _UNITS, _LARGE = 200, 4000, 64
_LARGE_BYTES = 1 << 20
_ROUNDS = 9


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
    """Take the two in turn, in one flow."""
    computes = [ComputeSettings(name="encrypted"), ComputeSettings(name="plain")]
    with scratch_run("encryption", computes=computes):
        stages, units, large = _times()
    return [
        _row(f"{_STAGES} no-op classical stages", _STAGES, stages, 0.9),
        _row(f"fan-out of {_UNITS} units", _UNITS, units, 0.8),
        _row(f"fan-out of {_LARGE} units that return 1 MiB each", _LARGE, large, None),
    ]


@flow
def _times() -> tuple[list[float], list[float], list[float]]:
    """Return seconds on encrypted and on plain workers: of stages, of units, of large units."""
    with without_tls():
        client = resources().compute("plain").client()  # type: ignore[attr-defined]
    if not client.scheduler.address.startswith("tcp://"):
        raise RuntimeError(f"{client.scheduler.address} is encrypted: nothing to compare with")
    names = ("encrypted", "plain")
    return (
        _medians([partial(_stages, stage) for stage in (on_encrypted, on_plain)]),
        _medians([partial(fan_out, _unit, range(_UNITS), compute=name) for name in names]),
        _medians([partial(fan_out, _large_unit, range(_LARGE), compute=name) for name in names]),
    )


def _medians(calls: Sequence[Callable[[], object]]) -> list[float]:
    return interleaved(calls, rounds=_ROUNDS, warmup=1)


def _stages(stage: Task[[int], int]) -> None:
    for future in stage.map(list(range(_STAGES))):
        future.result()


def _row(name: str, count: int, times_s: Sequence[float], least: float | None) -> Row:
    encrypted_s, plain_s = times_s
    ratio = plain_s / encrypted_s
    return Row(
        name=name,
        ours=f"{count / encrypted_s:.0f}/s",
        against=f"{count / plain_s:.0f}/s",
        what="the same on workers without TLS",
        ratio=ratio,
        goal="stated" if least is None else f"≥ {least:g} of it",
        met=None if least is None else ratio >= least,
    )
