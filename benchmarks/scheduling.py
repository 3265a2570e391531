"""What the scheduler decides, how fast, and what its default policy, slices and packing are worth."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backends.api import Usage
from backends.profiles import load_profile
from backends.shapes import ItemShape
from benchmarks.rows import Row, timed
from benchmarks.setting import ROOT
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.policies import Fifo, Weighted
from orchestrator.broker.core.rules import Calendar, QpuRules, Window
from orchestrator.broker.core.state import BrokerState
from orchestrator.broker.runtime.site_rules import qpu_rules
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.simulation.sources import Mix, made_up
from orchestrator.simulation.study import Study, alone
from orchestrator.simulation.workload import Workload, on_qpu, with_load

__all__ = ["measure"]

_LOG = "NASA-iPSC-1993-3.1-cln.swf.gz"
_QUEUED = 10_000
_SIZES = (1_000, 10_000, 100_000)
_SEEDS = (1, 2, 3)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_REPLAY = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from benchmarks.scheduling import rules_of
from orchestrator.broker.core.policies import Weighted
from orchestrator.simulation.sources import QuantumRule, read_swf
from orchestrator.simulation.study import Study, alone
from orchestrator.simulation.workload import on_qpu, with_load
start = time.perf_counter()
rules = rules_of("vlq")
log = on_qpu(read_swf(Path(sys.argv[1]), QuantumRule()), "q", "aer")
log = with_load(log, 0.9, alone(rules))
seen = Study(workload=log, rules=rules).under(Weighted()).metrics
took = time.perf_counter() - start
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"took": took, "jobs": seen.jobs, "tasks": seen.tasks, "peak": peak}))
"""


def measure() -> list[Row]:
    """Measure all; the replay needs the workload file, which is not in the repository."""
    return [
        _decision_row(),
        *_curve_rows(),
        *_replay_rows(),
        *_mix_rows(),
        _window_row(),
        _coalescing_row(),
    ]


def rules_of(profile: str) -> QpuRules:
    """Return the rules of a profile as a site has them that says nothing more."""
    target = load_profile(profile).target()
    return replace(
        qpu_rules(QpuSettings(name="q", backend="aer"), target, _NOW),
        calendar=Calendar(),
        clock_scale=1.0,
    )


def _decision_row() -> Row:
    """Time what follows from a task's end while many jobs wait, coalescing included."""
    state, tag, now = _backlog(_QUEUED)
    times = []
    for _ in range(100):
        now += timedelta(seconds=5)
        ended = ev.TaskCompleted(tag=tag, usage=Usage(qpu_seconds=5.0, tasks=1))
        start = time.perf_counter()
        outcome = state.handle(ended, now)
        state.next_look(now)
        times.append(time.perf_counter() - start)
        tag = _planned(outcome.events)
    median = statistics.median(times)
    return Row(
        name=f"decision with {_QUEUED:,} jobs queued, default policy, vlq",
        ours=f"{median * 1e3:.2f} ms",
        against=f"{max(times) * 1e3:.2f} ms",
        what="the longest of 100",
        ratio=None,
        goal="≤ 20 ms",
        met=median <= 0.020,
    )


def _curve_rows() -> list[Row]:
    """Time backlogs from first submission to last end; n log n allows 13.3 for ten times as many."""
    times = {size: _drain(size) for size in _SIZES}
    rows = []
    for small, large in itertools.pairwise(_SIZES):
        ratio = times[large] / times[small]
        rows.append(
            Row(
                name=f"{large:,} jobs that all wait at once, helmi",
                ours=f"{times[large]:.2f} s ({times[large] / large * 1e6:.0f} µs a job)",
                against=f"{times[small]:.2f} s ({times[small] / small * 1e6:.0f} µs a job)",
                what=f"{small:,} jobs",
                ratio=ratio,
                goal="≤ 13.3 (n log n)",
                met=ratio <= 10 * 4 / 3,
            )
        )
    return rows


def _drain(jobs: int) -> float:
    workload = on_qpu(made_up(Mix(seed=1, jobs=jobs, short=1.0, mean_gap_s=1e-4)), "q", "aer")
    study = Study(workload=workload, rules=rules_of("helmi"))
    return timed(lambda: study.under(Weighted()))


def _replay_rows() -> list[Row]:
    path = next((p for p in _places() if p.exists()), None)
    if path is None:
        print(f"{_LOG} is not here; the replay is left out", file=sys.stderr)
        return []
    command = [sys.executable, "-c", _REPLAY, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    ours = f"{found['took']:.1f} s, {found['tasks']:,} tasks"
    return [
        Row(
            name=f"replay of {found['jobs']:,} jobs (NASA iPSC), default policy, vlq",
            ours=ours,
            against="–",
            what="reading the file included",
            ratio=None,
            goal="≤ 30 s",
            met=found["took"] <= 30,
        ),
        _stated("peak memory of that process", f"{found['peak'] / 2**20:.0f} MiB"),
    ]


def _places() -> Iterator[Path]:
    for folder in (ROOT, *ROOT.parents):
        yield folder / "shared" / "data" / "swf" / _LOG


def _mix_rows() -> list[Row]:
    """Compare the default policy with first in, first out, both with and without slices."""
    rows = []
    for name, slice_s in (("slices of 10 s for both", 10.0), ("no slices for FIFO", None)):
        ours, fifo, used = [], [], []
        for seed in _SEEDS:
            rules = rules_of("vlq")
            workload = _mix(seed, rules)
            default = Study(workload=workload, rules=rules).under(Weighted()).metrics
            rules = replace(rules, slice_s=slice_s)
            first = Study(workload=workload, rules=rules).under(Fifo()).metrics
            assert default.short_slowdown is not None
            assert first.short_slowdown is not None
            ours.append(default.short_slowdown.mean)
            fifo.append(first.short_slowdown.mean)
            used.append((default, first))
        ratios = [a / b for a, b in zip(ours, fifo, strict=True)]
        busy, other = (statistics.mean(pair[i].utilisation for pair in used) for i in (0, 1))
        shot, shot_other = (statistics.mean(pair[i].shooting for pair in used) for i in (0, 1))
        rows += [
            Row(
                name=f"mean slowdown of short jobs in a mix at load 0.9, {name}",
                ours=f"{statistics.mean(ours):.2f}",
                against=f"{statistics.mean(fifo):.2f}",
                what=f"FIFO; seeds {', '.join(map(str, _SEEDS))}, the worst ratio",
                ratio=max(ratios),
                goal="≤ 0.25",
                met=max(ratios) <= 0.25,
            ),
            Row(
                name="QPU utilisation then",
                ours=f"{busy:.1%} (shooting {shot:.1%})",
                against=f"{other:.1%} (shooting {shot_other:.1%})",
                what="FIFO",
                ratio=busy / other,
                goal="≥ 1",
                met=busy >= other,
            ),
        ]
    return rows


def _mix(seed: int, rules: QpuRules) -> Workload:
    workload = on_qpu(made_up(Mix(seed=seed)), "q", "aer")
    return with_load(workload, 0.9, alone(rules))


def _window_row() -> Row:
    """Give more work than there is time for, two closures a day."""
    rules = rules_of("vlq")
    workload = on_qpu(made_up(Mix(seed=1, jobs=4000, short=0.7)), "q", "aer")
    workload = with_load(workload, 3.0, alone(rules))
    closures = [
        Window(
            start=workload.start + timedelta(hours=h), end=workload.start + timedelta(hours=h + 1)
        )
        for h in range(3, 24 * 60, 12)
    ]
    rules = replace(rules, calendar=Calendar.of(closures))
    seen = Study(workload=workload, rules=rules).under(Weighted()).metrics
    return Row(
        name="QPU utilisation of what closures of an hour twice a day leave, with enough work",
        ours=f"{seen.utilisation:.2%} (shooting {seen.shooting:.1%})",
        against="–",
        what="–",
        ratio=seen.utilisation,
        goal="≥ 0.97",
        met=seen.utilisation >= 0.97,
    )


def _coalescing_row() -> Row:
    rules = rules_of("vlq")
    workload = on_qpu(made_up(Mix(seed=1, jobs=1000, short=1.0, mean_gap_s=1e-4)), "q", "aer")
    shape = ItemShape(points=1, shots=50, num_qubits=5)
    workload = replace(
        workload,
        arrivals=tuple(replace(a, job=replace(a.job, pubs=(shape,))) for a in workload.arrivals),
    )
    single = replace(rules, limits=replace(rules.limits, coalesces=False))
    packed, apart = (
        Study(workload=workload, rules=r).under(Weighted()).metrics for r in (rules, single)
    )
    unit = rules.metering.unit
    ratio = packed.charges[unit] / apart.charges[unit]
    return Row(
        name="bill of 1 000 jobs of 50 shots on vlq, coalesced",
        ours=f"{packed.charges[unit]:.1f} {unit} ({packed.tasks} tasks)",
        against=f"{apart.charges[unit]:.1f} {unit} ({apart.tasks} tasks)",
        what="one by one",
        ratio=ratio,
        goal="≤ 0.1",
        met=ratio <= 0.1,
    )


def _backlog(jobs: int) -> tuple[BrokerState, str, datetime]:
    """Return a broker with so many jobs waiting, and the one task that runs."""
    workload = on_qpu(made_up(Mix(seed=1, jobs=jobs + 200, mean_gap_s=1e-3)), "q", "aer")
    state, tag = BrokerState(), ""
    state.configure("q", rules_of("vlq"))
    state.handle(ev.QpuDrained(qpu="q", by="", reason=""), workload.start)
    now = workload.arrivals[-1].at
    for arrival in workload.arrivals:
        state.handle(arrival.job, arrival.at)
    tag = _planned(state.handle(ev.QpuResumed(qpu="q", by=""), now).events)
    return state, tag, now


def _planned(events: tuple[ev.Event, ...]) -> str:
    return next(event.tag for event in events if isinstance(event, ev.TaskPlanned))


def _stated(name: str, ours: str) -> Row:
    return Row(name=name, ours=ours, against="–", what="–", ratio=None, goal="stated", met=None)
