"""How many classical stages, and units inside one stage, get through in a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from distributed import Client, LocalCluster
from prefect import flow

from benchmarks.environments import PeerFailed, run_other
from benchmarks.rows import Row, peer_failed
from benchmarks.setting import scratch_run
from hpcqc import classical, fan_out
from orchestrator.resources import resources

__all__ = ["measure"]

_STAGES = 200
_UNITS = 2000
_ROUNDS = 5


@classical
def nothing(value: int) -> int:
    """Return the value."""
    return value


def _unit(value: int) -> int:
    return value


def _rate(count: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


@flow
def _stage_rate() -> float:
    [future.result() for future in nothing.map(list(range(4)))]
    rates = [
        _rate(_STAGES, lambda: [f.result() for f in nothing.map(list(range(_STAGES)))])
        for _ in range(_ROUNDS)
    ]
    return statistics.median(rates)


def measure() -> list[Row]:
    """Compare stages with prefect-dask (its own environment), units with plain Dask."""
    with scratch_run("stages"):
        ours = _stage_rate()
        workers = resources().compute().workers
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                host="127.0.0.1",
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            plain, fanned, bare = [], [], []
            for _ in range(_ROUNDS):
                bare.append(_rate(_STAGES, lambda: _plain(client, _STAGES)))
                plain.append(_rate(_UNITS, lambda: _plain(client, _UNITS)))
                fanned.append(_rate(_UNITS, lambda: fan_out(_unit, range(_UNITS))))
    plain_rate, fanned_rate, bare_rate = (
        statistics.median(rates[1:]) for rates in (plain, fanned, bare)
    )
    return [
        _beside_prefect_dask(ours),
        Row(
            name=f"{_STAGES} no-op classical stages",
            ours=f"{ours:.0f}/s",
            against=f"{bare_rate:.0f}/s",
            what="plain Dask: client.map and gather, no flow",
            ratio=ours / bare_rate,
            goal="stated",
            met=None,
        ),
        Row(
            name=f"fan-out of {_UNITS} units in a stage",
            ours=f"{fanned_rate:.0f}/s",
            against=f"{plain_rate:.0f}/s",
            what="plain Dask: client.map and gather",
            ratio=fanned_rate / plain_rate,
            goal="≥ 0.8 of it",
            met=fanned_rate >= 0.8 * plain_rate,
        ),
    ]


def _beside_prefect_dask(ours: float) -> Row:
    name, what = f"{_STAGES} no-op classical stages", "prefect-dask 0.3.7"
    try:
        theirs = float(run_other("prefect_dask_noop.py", str(_STAGES))["rate"])
    except PeerFailed as error:
        return peer_failed(name, f"{ours:.0f}/s", f"{what}: {error}")
    return Row(
        name=name,
        ours=f"{ours:.0f}/s",
        against=f"{theirs:.0f}/s",
        what=what,
        ratio=ours / theirs,
        goal="≥ 5 times",
        met=ours >= 5 * theirs,
    )


def _plain(client: Client, count: int) -> list[int]:
    found: list[int] = client.gather(client.map(_unit, range(count), pure=False))
    return found
